/* The public headers in strict C11, and a whole call made from C. */
#include <stdlib.h>

#include "hax/hax.h"

static hax_tensor fp32_tensor(float* data, int32_t ndim, int64_t* shape) {
  hax_tensor tensor = {0};
  const hax_data_type fp32 = HAX_FP32;
  tensor.data = data;
  tensor.device.type = HAX_DEVICE_CPU;
  tensor.ndim = ndim;
  tensor.dtype = fp32;
  tensor.shape = shape;
  return tensor;
}

/* y[t] = x[t-1] + 10 x[t] over three tokens; returns 0 when the numbers are right. */
int hax_test_convolve_from_c(void) {
  float x[3] = {1, 2, 3}, weight[2] = {1, 10}, y[3] = {-1, -1, -1};
  int64_t tokens[3] = {1, 3, 1}, taps[2] = {1, 2};
  const hax_tensor x_tensor = fp32_tensor(x, 3, tokens);
  const hax_tensor weight_tensor = fp32_tensor(weight, 2, taps);
  const hax_tensor y_tensor = fp32_tensor(y, 3, tokens);
  hax_causal_conv1d_forward_args args = {0};
  hax_context* context = NULL;
  void* workspace;
  size_t bytes = 0;
  hax_status status;
  if (hax_context_create(NULL, &context) != HAX_SUCCESS) return 1;
  args.struct_size = sizeof args;
  args.x = &x_tensor;
  args.weight = &weight_tensor;
  args.y = &y_tensor;
  if (hax_causal_conv1d_forward_workspace(context, &args, &bytes) != HAX_SUCCESS) return 2;
  workspace = bytes > 0 ? aligned_alloc(256, bytes) : NULL;
  status = hax_causal_conv1d_forward(context, &args, workspace, bytes, NULL);
  free(workspace);
  hax_context_destroy(context);
  if (status != HAX_SUCCESS) return 3;
  return y[0] == 10 && y[1] == 21 && y[2] == 32 ? 0 : 4;
}
