/* hax: the attention of a HAX layer in one call (HAX, arXiv 2507.00449): hash queries and keys, sort them
 * into buckets, score the keys, select the best ones, attend. It computes what hax_lsh_hash_forward,
 * hax_lsh_bucket_forward, hax_key_score_forward, hax_key_select_forward, hax_ranking_loss_forward and
 * hax_sparse_attention_forward compute one after the other, with one workspace and without the caller
 * holding what passes between them. Patterns other than LSH and key selection may be joined in. */
#ifndef HAX_LAYER_ATTENTION_H_
#define HAX_LAYER_ATTENTION_H_

#include "hax/context.h"
#include "hax/key_selection.h"
#include "hax/lsh.h"
#include "hax/sparse_attention.h"
#include "hax/tensor.h"

HAX_BEGIN_DECLS

/* Tensors and numbers of patterns not asked for must be NULL or 0. */
typedef struct hax_layer_attention_forward_args {
  size_t struct_size;
  const hax_tensor* q;          /* in, (B, L, Hq, N), T; 1 <= N <= 256 */
  const hax_tensor* k;          /* in, (B, L, Hk, N), T; Hk divides Hq; Hk = Hq with KEY_SELECTION, whose
                                   scores pair each key head with a query head */
  const hax_tensor* v;          /* in, (B, L, Hk, Dv), T; 1 <= Dv <= 256 */
  const hax_tensor* cu_seqlens; /* in, optional, (S + 1), int32 or int64 */
  const hax_tensor* R;          /* in, with LSH: (N, num_bits), fp32; 1 <= num_bits <= 63 */
  const hax_tensor* W1;         /* in, with KEY_SELECTION: (2N, 2N), T or fp32, like all down to b3 as in
                                   hax_key_score_forward */
  const hax_tensor* b1;         /* (2N), fp32 */
  const hax_tensor* W2;         /* (2N, 2N), T or fp32 */
  const hax_tensor* b2;         /* (2N), fp32 */
  const hax_tensor* W3;         /* (1, 2N), T or fp32 */
  const hax_tensor* b3;         /* (1), fp32 */
  const hax_tensor* pick;       /* in, optional, with KEY_SELECTION: (B or S, Hk, M), int32: positions that
                                   the ranking loss compares, as in hax_ranking_loss_forward */
  const hax_tensor* o;          /* out, (B, L, Hq, Dv), T */
  const hax_tensor* lse;        /* out, optional, (B, Hq, L), fp32 */
  const hax_tensor* key_order;  /* out, optional, with LSH: (B, Hk, L), int32 */
  const hax_tensor* begin;      /* out, optional, with LSH: (B, Hq, L), int32 */
  const hax_tensor* end;        /* out, optional, with LSH: (B, Hq, L), int32 */
  const hax_tensor* score;      /* out, optional, with KEY_SELECTION: (B, Hk, L), fp32 */
  const hax_tensor* eviction;   /* out, optional, with KEY_SELECTION: (B, Hk, L), int32 */
  const hax_tensor* loss;       /* out, with pick: (1), fp32: the ranking loss */
  const hax_tensor* target;     /* out, optional, with pick: (B or S, Hk, M), fp32 */
  uint32_t patterns;            /* HAX_PATTERN_*, or-ed, at least one */
  int32_t window;               /* >= 1 with SLIDING_WINDOW */
  int32_t sink;                 /* >= 1 with SINK */
  int32_t dilation;             /* >= 1 with DILATED */
  int32_t lsh_budget;           /* >= 1 with LSH: keys a query attends at most in its bucket */
  int32_t statistics;           /* HAX_LSH_STATISTICS_*, of queries and keys alike */
  int32_t selection_budget;     /* >= 1 with KEY_SELECTION: keys selected at a time */
  int32_t normalization;        /* HAX_KEY_SCORE_NORM_* */
  float scale;                  /* finite, not 0: of q . k in the attention, and of k in scores and targets */
  int64_t max_seqlen;           /* with cu_seqlens: no sequence is longer; 0: unknown (hax/context.h) */
} hax_layer_attention_forward_args;

/* Errors: INVALID_ARGUMENT (on the CPU also a pick outside its sequence), UNSUPPORTED (types, sizes,
 * device), WORKSPACE_TOO_SMALL, CUDA. */
HAX_API hax_status hax_layer_attention_forward_workspace(
    const hax_context* context, const hax_layer_attention_forward_args* args,
    size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_layer_attention_forward(const hax_context* context,
                                               const hax_layer_attention_forward_args* args,
                                               void* workspace, size_t workspace_size,
                                               void* stream) HAX_NOEXCEPT;

/* Gradients of q, k and v come from the attention alone, those of the scorer's weights from the ranking
 * loss alone; hashing and selection have none. */
typedef struct hax_layer_attention_backward_args {
  size_t struct_size;
  const hax_tensor* q;          /* in, as in forward, like all down to cu_seqlens */
  const hax_tensor* k;
  const hax_tensor* v;
  const hax_tensor* cu_seqlens; /* optional */
  const hax_tensor* W1;         /* in, with dloss, as in forward, like all down to pick */
  const hax_tensor* b1;
  const hax_tensor* W2;
  const hax_tensor* b2;
  const hax_tensor* W3;
  const hax_tensor* b3;
  const hax_tensor* pick;
  const hax_tensor* o;         /* in, (B, L, Hq, Dv), T, from forward */
  const hax_tensor* lse;       /* in, (B, Hq, L), fp32, from forward */
  const hax_tensor* key_order; /* in, with LSH: from forward, like begin and end */
  const hax_tensor* begin;
  const hax_tensor* end;
  const hax_tensor* eviction;  /* in, with KEY_SELECTION: from forward */
  const hax_tensor* score;     /* in, with dloss: (B, Hk, L), fp32, from forward */
  const hax_tensor* target;    /* in, with dloss: (B or S, Hk, M), fp32, from forward */
  const hax_tensor* d_o;       /* in, (B, L, Hq, Dv), T: gradient of o */
  const hax_tensor* dlse;      /* in, optional, (B, Hq, L), fp32: gradient of lse */
  const hax_tensor* dloss;     /* in, optional, with KEY_SELECTION: (1), fp32: gradient of the loss */
  const hax_tensor* dq;        /* out, optional, (B, L, Hq, N), T */
  const hax_tensor* dk;        /* out, optional, (B, L, Hk, N), T */
  const hax_tensor* dv;        /* out, optional, (B, L, Hk, Dv), T */
  const hax_tensor* dW1;       /* out, optional, with dloss: (2N, 2N), fp32 */
  const hax_tensor* db1;       /* out, optional, with dloss: (2N), fp32 */
  const hax_tensor* dW2;       /* out, optional, with dloss: (2N, 2N), fp32 */
  const hax_tensor* db2;       /* out, optional, with dloss: (2N), fp32 */
  const hax_tensor* dW3;       /* out, optional, with dloss: (1, 2N), fp32 */
  const hax_tensor* db3;       /* out, optional, with dloss: (1), fp32 */
  uint32_t patterns;           /* as in forward */
  int32_t window;              /* as in forward */
  int32_t sink;                /* as in forward */
  int32_t dilation;            /* as in forward */
  int32_t normalization;       /* as in forward, with dloss */
  float scale;                 /* as in forward */
  int32_t deterministic;       /* 1: the same bits every run; 0: the library may choose */
  int64_t max_seqlen;           /* with cu_seqlens: no sequence is longer; 0: unknown (hax/context.h) */
} hax_layer_attention_backward_args;

HAX_API hax_status hax_layer_attention_backward_workspace(
    const hax_context* context, const hax_layer_attention_backward_args* args,
    size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_layer_attention_backward(const hax_context* context,
                                                const hax_layer_attention_backward_args* args,
                                                void* workspace, size_t workspace_size,
                                                void* stream) HAX_NOEXCEPT;

HAX_END_DECLS

#endif /* HAX_LAYER_ATTENTION_H_ */
