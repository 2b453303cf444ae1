#include <hax/hax.h>
#include <stdio.h>
#include <stdlib.h>

static const hax_data_type fp32 = HAX_FP32;

/* A compact fp32 tensor on the CPU. */
static hax_tensor tensor(float* data, int32_t ndim, int64_t* shape) {
  hax_tensor t = {
      .data = data, .device = {HAX_DEVICE_CPU, 0}, .ndim = ndim, .dtype = fp32, .shape = shape};
  return t;
}

int main(void) {
  /* One sequence of 4 tokens, 2 channels, state size 1: with A = 0 the scan is a running sum of u. */
  float u[] = {1, 10, 2, 20, 3, 30, 4, 40}, delta[] = {1, 1, 1, 1, 1, 1, 1, 1}, y[8];
  float A[] = {0, 0}, B[] = {1, 1, 1, 1}, C[] = {1, 1, 1, 1};
  hax_tensor u_t = tensor(u, 3, (int64_t[]){1, 4, 2}),
             delta_t = tensor(delta, 3, (int64_t[]){1, 4, 2});
  hax_tensor A_t = tensor(A, 2, (int64_t[]){2, 1}), y_t = tensor(y, 3, (int64_t[]){1, 4, 2});
  hax_tensor B_t = tensor(B, 4, (int64_t[]){1, 4, 1, 1}),
             C_t = tensor(C, 4, (int64_t[]){1, 4, 1, 1});
  hax_selective_scan_forward_args args = {.struct_size = sizeof args,
                                          .u = &u_t,
                                          .delta = &delta_t,
                                          .A = &A_t,
                                          .B = &B_t,
                                          .C = &C_t,
                                          .y = &y_t};

  hax_context* context;
  size_t bytes;
  hax_status status = hax_context_create(NULL, &context);
  if (status == HAX_SUCCESS) status = hax_selective_scan_forward_workspace(context, &args, &bytes);
  if (status == HAX_SUCCESS) {
    void* workspace = aligned_alloc(256, bytes + 256 - bytes % 256);
    status = hax_selective_scan_forward(context, &args, workspace, bytes, NULL);
    free(workspace);
  }
  if (status != HAX_SUCCESS) {
    fprintf(stderr, "%s: %s\n", hax_status_name(status), hax_last_error());
    return 1;
  }
  hax_context_destroy(context);
  printf("hax %s: running sums %g and %g\n", hax_version_string(), y[6], y[7]); /* 10 and 100 */
  return y[6] == 10 && y[7] == 100 ? 0 : 1;
}
