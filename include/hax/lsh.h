/* hax: sign-bin locality-sensitive hashing, which finds for each query the keys that lie in about the
 * same direction (HAX, arXiv 2507.00449; sign random projections: Charikar, STOC 2002).
 *
 * hax_lsh_hash turns vectors into codes of sign bits; hax_lsh_bucket turns the codes of queries and keys
 * into one contiguous range of a sorted key order per query. Neither has a gradient. */
#ifndef HAX_LSH_H_
#define HAX_LSH_H_

#include "hax/context.h"
#include "hax/tensor.h"

HAX_BEGIN_DECLS

/* Values of `statistics`: how each feature of x is centred and scaled before the projection.
 *   NONE      not at all
 *   SEQUENCE  minus its mean over the whole sequence, times 1 / max(L2 norm over the sequence of the
 *             centred feature, 1e-12); looks ahead, so it can't be decoded token by token
 *   CAUSAL    the same over the positions up to and including the token's own */
#define HAX_LSH_STATISTICS_NONE 0
#define HAX_LSH_STATISTICS_SEQUENCE 1
#define HAX_LSH_STATISTICS_CAUSAL 2

/* code[t] = sum_j 2^j [x'_t . R[:,j] > 0], for queries and keys alike (one call each). */
typedef struct hax_lsh_hash_forward_args {
  size_t struct_size;
  const hax_tensor* x;          /* in, (B, L, H, N), T; 1 <= N <= 256 */
  const hax_tensor* R;          /* in, (N, num_bits), fp32; 1 <= num_bits <= 63 */
  const hax_tensor* cu_seqlens; /* in, optional, (S + 1), int32 or int64 */
  const hax_tensor* code;       /* out, (B, H, L), int64 */
  int32_t statistics;           /* HAX_LSH_STATISTICS_* */
  int64_t max_seqlen;           /* with cu_seqlens: no sequence is longer; 0: unknown (hax/context.h) */
} hax_lsh_hash_forward_args;

/* Errors: INVALID_ARGUMENT, UNSUPPORTED (types, sizes, device), WORKSPACE_TOO_SMALL, CUDA. */
HAX_API hax_status hax_lsh_hash_forward_workspace(const hax_context* context,
                                                  const hax_lsh_hash_forward_args* args,
                                                  size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_lsh_hash_forward(const hax_context* context,
                                        const hax_lsh_hash_forward_args* args, void* workspace,
                                        size_t workspace_size, void* stream) HAX_NOEXCEPT;

/* Query i's candidates are the most recent `budget` keys j <= i with code_k[j] = code_q[i]. In the order
 * of keys by (code, position) they are key_order[begin[i]] ... key_order[end[i] - 1]. */
typedef struct hax_lsh_bucket_forward_args {
  size_t struct_size;
  const hax_tensor* code_q;     /* in, (B, Hq, L), int64, 0 <= code < 2^num_bits; L < 2^31 */
  const hax_tensor* code_k;     /* in, (B, Hk, L), int64, likewise; Hk divides Hq, and query head h looks
                                   into the keys of head h / (Hq/Hk) */
  const hax_tensor* cu_seqlens; /* in, optional, (S + 1), int32 or int64 */
  const hax_tensor* key_order;  /* out, (B, Hk, L), int32: positions of the keys sorted by (code,
                                   position). Packed: each sequence's own stretch of the L axis is
                                   sorted by itself, and positions count from the sequence's start */
  const hax_tensor* begin;      /* out, (B, Hq, L), int32: index into key_order, counted from the
                                   sequence's start */
  const hax_tensor* end;        /* out, (B, Hq, L), int32; begin <= end <= begin + budget */
  int32_t num_bits;             /* 1..63, bits of a code */
  int32_t budget;               /* >= 1 */
  int64_t max_seqlen;           /* with cu_seqlens: no sequence is longer; 0: unknown (hax/context.h) */
} hax_lsh_bucket_forward_args;

/* Errors: INVALID_ARGUMENT (on the CPU also a code outside its range), UNSUPPORTED,
 * WORKSPACE_TOO_SMALL, CUDA. */
HAX_API hax_status hax_lsh_bucket_forward_workspace(const hax_context* context,
                                                    const hax_lsh_bucket_forward_args* args,
                                                    size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_lsh_bucket_forward(const hax_context* context,
                                          const hax_lsh_bucket_forward_args* args, void* workspace,
                                          size_t workspace_size, void* stream) HAX_NOEXCEPT;

HAX_END_DECLS

#endif /* HAX_LSH_H_ */
