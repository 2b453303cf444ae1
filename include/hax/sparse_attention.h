/* hax: causal attention over the union of sparse patterns (HAX, arXiv 2507.00449).
 *
 *   o_i = sum_{j in S_i} softmax_{j in S_i}(scale q_i . k_j) v_j
 *
 * One softmax over the union S_i of the patterns asked for; a key in two patterns counts once. A row
 * whose S_i is empty gives o = 0, lse = -infinity and no gradient. Beside finite scores one of -infinity
 * weighs 0; a NaN or +infinity, or nothing but -infinity, makes the row's o NaN. Keys outside S_i are
 * not read for row i, whatever they hold. Memory beside inputs and outputs is O(L) a head; L < 2^31. */
#ifndef HAX_SPARSE_ATTENTION_H_
#define HAX_SPARSE_ATTENTION_H_

#include "hax/context.h"
#include "hax/tensor.h"

HAX_BEGIN_DECLS

/* Bits of `patterns`. Key j is in S_i iff j <= i, both counted from the sequence's start, and */
#define HAX_PATTERN_FULL 1u           /* always */
#define HAX_PATTERN_SLIDING_WINDOW 2u /* i - j < window */
#define HAX_PATTERN_SINK 4u           /* j < sink */
#define HAX_PATTERN_DILATED 8u        /* j mod dilation = dilation - 1 */
#define HAX_PATTERN_LSH 16u           /* j is in key_order[begin[i]] ... key_order[end[i] - 1] */
#define HAX_PATTERN_KEY_SELECTION 32u /* i < eviction[j] */

/* What selects the keys; forward and backward take the same. Fields of patterns not asked for must be
 * NULL or 0. */
typedef struct hax_sparse_pattern {
  size_t struct_size;          /* sizeof(hax_sparse_pattern) */
  uint32_t patterns;           /* HAX_PATTERN_*, or-ed, at least one */
  int32_t window;              /* >= 1 with SLIDING_WINDOW */
  int32_t sink;                /* >= 1 with SINK */
  int32_t dilation;            /* >= 1 with DILATED */
  const hax_tensor* key_order; /* in, with LSH: (B, Hk, L), int32, from hax_lsh_bucket_forward */
  const hax_tensor* begin;     /* in, with LSH: (B, Hq, L), int32 */
  const hax_tensor* end;       /* in, with LSH: (B, Hq, L), int32 */
  const hax_tensor* eviction;  /* in, with KEY_SELECTION: (B, Hk, L), int32, from
                                  hax_key_select_forward */
} hax_sparse_pattern;

typedef struct hax_sparse_attention_forward_args {
  size_t struct_size;
  const hax_tensor* q;          /* in, (B, L, Hq, Dqk), T; 1 <= Dqk <= 256 */
  const hax_tensor* k;          /* in, (B, L, Hk, Dqk), T; Hk divides Hq, and query head h attends key head
                                   h / (Hq/Hk) */
  const hax_tensor* v;          /* in, (B, L, Hk, Dv), T; 1 <= Dv <= 256 */
  const hax_tensor* cu_seqlens; /* in, optional, (S + 1), int32 or int64 */
  const hax_tensor* o;          /* out, (B, L, Hq, Dv), T */
  const hax_tensor* lse;        /* out, optional, (B, Hq, L), fp32: natural logarithm of
                                   sum_{j in S_i} exp(scale q_i . k_j); -infinity for an empty row */
  const hax_sparse_pattern* pattern; /* not NULL */
  float scale;                  /* finite, not 0 */
  int64_t max_seqlen;           /* with cu_seqlens: no sequence is longer; 0: unknown (hax/context.h) */
} hax_sparse_attention_forward_args;

/* Errors: INVALID_ARGUMENT (on the CPU also an index outside its sequence), UNSUPPORTED (types, sizes,
 * device), WORKSPACE_TOO_SMALL, CUDA. */
HAX_API hax_status hax_sparse_attention_forward_workspace(
    const hax_context* context, const hax_sparse_attention_forward_args* args,
    size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_sparse_attention_forward(const hax_context* context,
                                                const hax_sparse_attention_forward_args* args,
                                                void* workspace, size_t workspace_size,
                                                void* stream) HAX_NOEXCEPT;

typedef struct hax_sparse_attention_backward_args {
  size_t struct_size;
  const hax_tensor* q;          /* in, as in forward */
  const hax_tensor* k;          /* in, as in forward */
  const hax_tensor* v;          /* in, as in forward */
  const hax_tensor* cu_seqlens; /* in, optional, as in forward */
  const hax_tensor* o;          /* in, (B, L, Hq, Dv), T, from forward */
  const hax_tensor* lse;        /* in, (B, Hq, L), fp32, from forward */
  const hax_tensor* d_o;        /* in, (B, L, Hq, Dv), T: gradient of o (`do` is a keyword) */
  const hax_tensor* dlse;       /* in, optional, (B, Hq, L), fp32: gradient of lse; not read at empty
                                   rows */
  const hax_tensor* dq;         /* out, optional, (B, L, Hq, Dqk), T */
  const hax_tensor* dk;         /* out, optional, (B, L, Hk, Dqk), T */
  const hax_tensor* dv;         /* out, optional, (B, L, Hk, Dv), T */
  const hax_sparse_pattern* pattern; /* as in forward */
  float scale;                  /* as in forward */
  int32_t deterministic;        /* 1: the same bits every run; 0: the library may choose */
  int64_t max_seqlen;           /* with cu_seqlens: no sequence is longer; 0: unknown (hax/context.h) */
} hax_sparse_attention_backward_args;

HAX_API hax_status hax_sparse_attention_backward_workspace(
    const hax_context* context, const hax_sparse_attention_backward_args* args,
    size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_sparse_attention_backward(const hax_context* context,
                                                 const hax_sparse_attention_backward_args* args,
                                                 void* workspace, size_t workspace_size,
                                                 void* stream) HAX_NOEXCEPT;

HAX_END_DECLS

#endif /* HAX_SPARSE_ATTENTION_H_ */
