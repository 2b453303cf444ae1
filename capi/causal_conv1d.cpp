#include "hax/causal_conv1d.h"

#include "capi/entry.hpp"
#include "scan/causal_conv1d/causal_conv1d.hpp"

using namespace hax;

extern "C" {

hax_status hax_causal_conv1d_forward_workspace(const hax_context* context,
                                               const hax_causal_conv1d_forward_args* args,
                                               size_t* bytes) noexcept {
  return capi::workspace<causal_conv1d::Forward>(context, args, bytes);
}

hax_status hax_causal_conv1d_forward(const hax_context* context,
                                     const hax_causal_conv1d_forward_args* args, void* workspace,
                                     size_t workspace_size, void* stream) noexcept {
  return capi::call<causal_conv1d::Forward>(context, args, workspace, workspace_size, stream);
}

hax_status hax_causal_conv1d_backward_workspace(const hax_context* context,
                                                const hax_causal_conv1d_backward_args* args,
                                                size_t* bytes) noexcept {
  return capi::workspace<causal_conv1d::Backward>(context, args, bytes);
}

hax_status hax_causal_conv1d_backward(const hax_context* context,
                                      const hax_causal_conv1d_backward_args* args, void* workspace,
                                      size_t workspace_size, void* stream) noexcept {
  return capi::call<causal_conv1d::Backward>(context, args, workspace, workspace_size, stream);
}

hax_status hax_causal_conv1d_step_workspace(const hax_context* context,
                                            const hax_causal_conv1d_step_args* args,
                                            size_t* bytes) noexcept {
  return capi::workspace<causal_conv1d::Step>(context, args, bytes);
}

hax_status hax_causal_conv1d_step(const hax_context* context,
                                  const hax_causal_conv1d_step_args* args, void* workspace,
                                  size_t workspace_size, void* stream) noexcept {
  return capi::call<causal_conv1d::Step>(context, args, workspace, workspace_size, stream);
}

}  // extern "C"
