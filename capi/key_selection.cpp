#include "hax/key_selection.h"

#include "capi/entry.hpp"
#include "hash/key_score/key_score.hpp"
#include "hash/key_select/key_select.hpp"
#include "hash/ranking_loss/ranking_loss.hpp"

using namespace hax;

extern "C" {

hax_status hax_key_score_forward_workspace(const hax_context* context,
                                           const hax_key_score_forward_args* args,
                                           size_t* bytes) noexcept {
  return capi::workspace<key_score::Forward>(context, args, bytes);
}

hax_status hax_key_score_forward(const hax_context* context, const hax_key_score_forward_args* args,
                                 void* workspace, size_t workspace_size, void* stream) noexcept {
  return capi::call<key_score::Forward>(context, args, workspace, workspace_size, stream);
}

hax_status hax_key_score_backward_workspace(const hax_context* context,
                                            const hax_key_score_backward_args* args,
                                            size_t* bytes) noexcept {
  return capi::workspace<key_score::Backward>(context, args, bytes);
}

hax_status hax_key_score_backward(const hax_context* context,
                                  const hax_key_score_backward_args* args, void* workspace,
                                  size_t workspace_size, void* stream) noexcept {
  return capi::call<key_score::Backward>(context, args, workspace, workspace_size, stream);
}

hax_status hax_ranking_loss_forward_workspace(const hax_context* context,
                                              const hax_ranking_loss_forward_args* args,
                                              size_t* bytes) noexcept {
  return capi::workspace<ranking_loss::Forward>(context, args, bytes);
}

hax_status hax_ranking_loss_forward(const hax_context* context,
                                    const hax_ranking_loss_forward_args* args, void* workspace,
                                    size_t workspace_size, void* stream) noexcept {
  return capi::call<ranking_loss::Forward>(context, args, workspace, workspace_size, stream);
}

hax_status hax_ranking_loss_backward_workspace(const hax_context* context,
                                               const hax_ranking_loss_backward_args* args,
                                               size_t* bytes) noexcept {
  return capi::workspace<ranking_loss::Backward>(context, args, bytes);
}

hax_status hax_ranking_loss_backward(const hax_context* context,
                                     const hax_ranking_loss_backward_args* args, void* workspace,
                                     size_t workspace_size, void* stream) noexcept {
  return capi::call<ranking_loss::Backward>(context, args, workspace, workspace_size, stream);
}

hax_status hax_key_select_forward_workspace(const hax_context* context,
                                            const hax_key_select_forward_args* args,
                                            size_t* bytes) noexcept {
  return capi::workspace<key_select::Forward>(context, args, bytes);
}

hax_status hax_key_select_forward(const hax_context* context,
                                  const hax_key_select_forward_args* args, void* workspace,
                                  size_t workspace_size, void* stream) noexcept {
  return capi::call<key_select::Forward>(context, args, workspace, workspace_size, stream);
}

}  // extern "C"
