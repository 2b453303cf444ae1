#include "hax/ssd.h"

#include "capi/entry.hpp"
#include "scan/ssd/ssd.hpp"

using namespace hax;

extern "C" {

hax_status hax_ssd_forward_workspace(const hax_context* context, const hax_ssd_forward_args* args,
                                     size_t* bytes) noexcept {
  return capi::workspace<ssd::Forward>(context, args, bytes);
}

hax_status hax_ssd_forward(const hax_context* context, const hax_ssd_forward_args* args,
                           void* workspace, size_t workspace_size, void* stream) noexcept {
  return capi::call<ssd::Forward>(context, args, workspace, workspace_size, stream);
}

hax_status hax_ssd_backward_workspace(const hax_context* context, const hax_ssd_backward_args* args,
                                      size_t* bytes) noexcept {
  return capi::workspace<ssd::Backward>(context, args, bytes);
}

hax_status hax_ssd_backward(const hax_context* context, const hax_ssd_backward_args* args,
                            void* workspace, size_t workspace_size, void* stream) noexcept {
  return capi::call<ssd::Backward>(context, args, workspace, workspace_size, stream);
}

hax_status hax_ssd_step_workspace(const hax_context* context, const hax_ssd_step_args* args,
                                  size_t* bytes) noexcept {
  return capi::workspace<ssd::Step>(context, args, bytes);
}

hax_status hax_ssd_step(const hax_context* context, const hax_ssd_step_args* args, void* workspace,
                        size_t workspace_size, void* stream) noexcept {
  return capi::call<ssd::Step>(context, args, workspace, workspace_size, stream);
}

}  // extern "C"
