/* hax: key selection, the learnt half of HAX (arXiv 2507.00449): an MLP scores every key, a ranking loss
 * trains the scores, and each query attends the `budget` best keys so far.
 *
 * Heads are independent and share the MLP. Packed sequences as everywhere (hax/context.h). */
#ifndef HAX_KEY_SELECTION_H_
#define HAX_KEY_SELECTION_H_

#include "hax/context.h"
#include "hax/tensor.h"

HAX_BEGIN_DECLS

/* Values of `normalization`: q'_t is the running sum of q over the positions <= t, divided by
 * max(its L2 norm, 1e-12), where the norm runs over
 *   FEATURE   the N features of that position (the paper's formula; causal)
 *   SEQUENCE  all positions of the sequence, for each feature (the official code; looks ahead) */
#define HAX_KEY_SCORE_NORM_FEATURE 0
#define HAX_KEY_SCORE_NORM_SEQUENCE 1

/* score[t] = W3 relu(W2 relu(W1 [k_scale k_t ; q'_t] + b1) + b2) + b3 */
typedef struct hax_key_score_forward_args {
  size_t struct_size;
  const hax_tensor* q;          /* in, (B, L, H, N), T; 1 <= N <= 256 */
  const hax_tensor* k;          /* in, (B, L, H, N), T */
  const hax_tensor* W1;         /* in, (2N, 2N), T or fp32; row = output feature; columns 0..N-1 meet k,
                                   N..2N-1 meet q' */
  const hax_tensor* b1;         /* in, (2N), fp32 */
  const hax_tensor* W2;         /* in, (2N, 2N), T or fp32 */
  const hax_tensor* b2;         /* in, (2N), fp32 */
  const hax_tensor* W3;         /* in, (1, 2N), T or fp32 */
  const hax_tensor* b3;         /* in, (1), fp32 */
  const hax_tensor* cu_seqlens; /* in, optional, (S + 1), int32 or int64 */
  const hax_tensor* score;      /* out, (B, H, L), fp32 */
  float k_scale;                /* finite, not 0: multiplies k, usually the attention's scale */
  int32_t normalization;        /* HAX_KEY_SCORE_NORM_* */
  int64_t max_seqlen;           /* with cu_seqlens: no sequence is longer; 0: unknown (hax/context.h) */
} hax_key_score_forward_args;

/* Errors: INVALID_ARGUMENT, UNSUPPORTED (types, N, device), WORKSPACE_TOO_SMALL, CUDA. */
HAX_API hax_status hax_key_score_forward_workspace(const hax_context* context,
                                                   const hax_key_score_forward_args* args,
                                                   size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_key_score_forward(const hax_context* context,
                                         const hax_key_score_forward_args* args, void* workspace,
                                         size_t workspace_size, void* stream) HAX_NOEXCEPT;

/* Gradients reach the MLP only: q and k are taken as constants. */
typedef struct hax_key_score_backward_args {
  size_t struct_size;
  const hax_tensor* q;          /* in, as in forward, like all down to cu_seqlens */
  const hax_tensor* k;
  const hax_tensor* W1;
  const hax_tensor* b1;
  const hax_tensor* W2;
  const hax_tensor* b2;
  const hax_tensor* W3;
  const hax_tensor* b3;
  const hax_tensor* cu_seqlens; /* optional */
  const hax_tensor* dscore;     /* in, (B, H, L), fp32 */
  const hax_tensor* dW1;        /* out, optional, (2N, 2N), fp32 */
  const hax_tensor* db1;        /* out, optional, (2N), fp32 */
  const hax_tensor* dW2;        /* out, optional, (2N, 2N), fp32 */
  const hax_tensor* db2;        /* out, optional, (2N), fp32 */
  const hax_tensor* dW3;        /* out, optional, (1, 2N), fp32 */
  const hax_tensor* db3;        /* out, optional, (1), fp32 */
  float k_scale;                /* as in forward */
  int32_t normalization;        /* as in forward */
  int32_t deterministic;        /* 1: the same bits every run; 0: the library may choose */
  int64_t max_seqlen;           /* with cu_seqlens: no sequence is longer; 0: unknown (hax/context.h) */
} hax_key_score_backward_args;

HAX_API hax_status hax_key_score_backward_workspace(const hax_context* context,
                                                    const hax_key_score_backward_args* args,
                                                    size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_key_score_backward(const hax_context* context,
                                          const hax_key_score_backward_args* args,
                                          void* workspace, size_t workspace_size,
                                          void* stream) HAX_NOEXCEPT;

/* Ranking loss: teaches the scores to rank keys as the attention mass they will receive does.
 * For the picked positions of one (sequence, head):
 *   target[a] = sum_{i >= pick[a]} sigmoid(k_scale q_i . k_pick[a])
 *   loss = mean over all ordered pairs (a, b), a = b included, of
 *          BCE(sigmoid(score[pick[a]] - score[pick[b]]), ([t_a > t_b] + [t_a >= t_b]) / 2)
 * averaged over the (sequence, head) rows that have at least one pick; 0 if none has. */
typedef struct hax_ranking_loss_forward_args {
  size_t struct_size;
  const hax_tensor* q;          /* in, (B, L, H, N), T; 1 <= N <= 256 */
  const hax_tensor* k;          /* in, (B, L, H, N), T */
  const hax_tensor* score;      /* in, (B, H, L), fp32 */
  const hax_tensor* pick;       /* in, (B or S, H, M), int32: positions counted from the sequence's start,
                                   each at most once a row; negative: unused entry */
  const hax_tensor* cu_seqlens; /* in, optional, (S + 1), int32 or int64 */
  const hax_tensor* loss;       /* out, (1), fp32 */
  const hax_tensor* target;     /* out, optional, (B or S, H, M), fp32, kept for backward; 0 at unused
                                   entries */
  float k_scale;                /* finite, not 0: multiplies k */
} hax_ranking_loss_forward_args;

/* Errors: INVALID_ARGUMENT (on the CPU also a pick outside its sequence), UNSUPPORTED,
 * WORKSPACE_TOO_SMALL, CUDA. */
HAX_API hax_status hax_ranking_loss_forward_workspace(const hax_context* context,
                                                      const hax_ranking_loss_forward_args* args,
                                                      size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_ranking_loss_forward(const hax_context* context,
                                            const hax_ranking_loss_forward_args* args,
                                            void* workspace, size_t workspace_size,
                                            void* stream) HAX_NOEXCEPT;

/* The gradient reaches the scores only. */
typedef struct hax_ranking_loss_backward_args {
  size_t struct_size;
  const hax_tensor* score;      /* in, (B, H, L), fp32 */
  const hax_tensor* pick;       /* in, (B or S, H, M), int32 */
  const hax_tensor* target;     /* in, (B or S, H, M), fp32, from forward */
  const hax_tensor* cu_seqlens; /* in, optional, (S + 1), int32 or int64 */
  const hax_tensor* dloss;      /* in, (1), fp32 */
  const hax_tensor* dscore;     /* out, (B, H, L), fp32; 0 at positions not picked */
} hax_ranking_loss_backward_args;

HAX_API hax_status hax_ranking_loss_backward_workspace(const hax_context* context,
                                                       const hax_ranking_loss_backward_args* args,
                                                       size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_ranking_loss_backward(const hax_context* context,
                                             const hax_ranking_loss_backward_args* args,
                                             void* workspace, size_t workspace_size,
                                             void* stream) HAX_NOEXCEPT;

/* Query i attends key j iff j <= i and score[j] is among the `budget` largest of score[0..i]; of equal
 * scores the earlier position ranks higher, NaN ranks lowest. A key once out never returns, so the whole
 * pattern is one number per key: query i attends j iff j <= i < eviction[j]. No gradient. */
typedef struct hax_key_select_forward_args {
  size_t struct_size;
  const hax_tensor* score;      /* in, (B, H, L), fp32; L < 2^31 */
  const hax_tensor* cu_seqlens; /* in, optional, (S + 1), int32 or int64 */
  const hax_tensor* eviction;   /* out, (B, H, L), int32: j for a key that never enters, otherwise in
                                   (j, length]; counted from the sequence's start */
  int32_t budget;               /* >= 1 */
  int64_t max_seqlen;           /* with cu_seqlens: no sequence is longer; 0: unknown (hax/context.h) */
} hax_key_select_forward_args;

/* Errors: INVALID_ARGUMENT, UNSUPPORTED, WORKSPACE_TOO_SMALL, CUDA. */
HAX_API hax_status hax_key_select_forward_workspace(const hax_context* context,
                                                    const hax_key_select_forward_args* args,
                                                    size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_key_select_forward(const hax_context* context,
                                          const hax_key_select_forward_args* args,
                                          void* workspace, size_t workspace_size,
                                          void* stream) HAX_NOEXCEPT;

HAX_END_DECLS

#endif /* HAX_KEY_SELECTION_H_ */
