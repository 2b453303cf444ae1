#include "hax/layer_attention.h"

#include "attention/layer_attention/layer_attention.hpp"
#include "capi/entry.hpp"

using namespace hax;

extern "C" {

hax_status hax_layer_attention_forward_workspace(const hax_context* context,
                                                 const hax_layer_attention_forward_args* args,
                                                 size_t* bytes) noexcept {
  return capi::workspace<layer_attention::Forward>(context, args, bytes);
}

hax_status hax_layer_attention_forward(const hax_context* context,
                                       const hax_layer_attention_forward_args* args,
                                       void* workspace, size_t workspace_size,
                                       void* stream) noexcept {
  return capi::call<layer_attention::Forward>(context, args, workspace, workspace_size, stream);
}

hax_status hax_layer_attention_backward_workspace(const hax_context* context,
                                                  const hax_layer_attention_backward_args* args,
                                                  size_t* bytes) noexcept {
  return capi::workspace<layer_attention::Backward>(context, args, bytes);
}

hax_status hax_layer_attention_backward(const hax_context* context,
                                        const hax_layer_attention_backward_args* args,
                                        void* workspace, size_t workspace_size,
                                        void* stream) noexcept {
  return capi::call<layer_attention::Backward>(context, args, workspace, workspace_size, stream);
}

}  // extern "C"
