#include "hax/selective_scan.h"

#include "capi/entry.hpp"
#include "scan/selective_scan/selective_scan.hpp"

using namespace hax;

extern "C" {

hax_status hax_selective_scan_forward_workspace(const hax_context* context,
                                                const hax_selective_scan_forward_args* args,
                                                size_t* bytes) noexcept {
  return capi::workspace<selective_scan::Forward>(context, args, bytes);
}

hax_status hax_selective_scan_forward(const hax_context* context,
                                      const hax_selective_scan_forward_args* args, void* workspace,
                                      size_t workspace_size, void* stream) noexcept {
  return capi::call<selective_scan::Forward>(context, args, workspace, workspace_size, stream);
}

hax_status hax_selective_scan_backward_workspace(const hax_context* context,
                                                 const hax_selective_scan_backward_args* args,
                                                 size_t* bytes) noexcept {
  return capi::workspace<selective_scan::Backward>(context, args, bytes);
}

hax_status hax_selective_scan_backward(const hax_context* context,
                                       const hax_selective_scan_backward_args* args,
                                       void* workspace, size_t workspace_size,
                                       void* stream) noexcept {
  return capi::call<selective_scan::Backward>(context, args, workspace, workspace_size, stream);
}

hax_status hax_selective_scan_step_workspace(const hax_context* context,
                                             const hax_selective_scan_step_args* args,
                                             size_t* bytes) noexcept {
  return capi::workspace<selective_scan::Step>(context, args, bytes);
}

hax_status hax_selective_scan_step(const hax_context* context,
                                   const hax_selective_scan_step_args* args, void* workspace,
                                   size_t workspace_size, void* stream) noexcept {
  return capi::call<selective_scan::Step>(context, args, workspace, workspace_size, stream);
}

}  // extern "C"
