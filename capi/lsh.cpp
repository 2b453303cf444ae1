#include "hax/lsh.h"

#include "capi/entry.hpp"
#include "hash/lsh_bucket/lsh_bucket.hpp"
#include "hash/lsh_hash/lsh_hash.hpp"

using namespace hax;

extern "C" {

hax_status hax_lsh_hash_forward_workspace(const hax_context* context,
                                          const hax_lsh_hash_forward_args* args,
                                          size_t* bytes) noexcept {
  return capi::workspace<lsh_hash::Forward>(context, args, bytes);
}

hax_status hax_lsh_hash_forward(const hax_context* context, const hax_lsh_hash_forward_args* args,
                                void* workspace, size_t workspace_size, void* stream) noexcept {
  return capi::call<lsh_hash::Forward>(context, args, workspace, workspace_size, stream);
}

hax_status hax_lsh_bucket_forward_workspace(const hax_context* context,
                                            const hax_lsh_bucket_forward_args* args,
                                            size_t* bytes) noexcept {
  return capi::workspace<lsh_bucket::Forward>(context, args, bytes);
}

hax_status hax_lsh_bucket_forward(const hax_context* context,
                                  const hax_lsh_bucket_forward_args* args, void* workspace,
                                  size_t workspace_size, void* stream) noexcept {
  return capi::call<lsh_bucket::Forward>(context, args, workspace, workspace_size, stream);
}

}  // extern "C"
