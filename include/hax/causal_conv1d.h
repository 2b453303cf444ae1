/* hax: causal depthwise 1-d convolution, the short convolution in front of Mamba's scans.
 *
 *   y[b,t,d] = act(bias[d] + sum_{w<W} weight[d,w] x[b, t-(W-1)+w, d])
 *
 * Tokens before a sequence come from initial_state, or are 0. Gu and Dao, "Mamba: Linear-Time Sequence
 * Modeling with Selective State Spaces", arXiv 2312.00752. */
#ifndef HAX_CAUSAL_CONV1D_H_
#define HAX_CAUSAL_CONV1D_H_

#include "hax/context.h"
#include "hax/tensor.h"

HAX_BEGIN_DECLS

/* Values of `activation`. */
#define HAX_ACTIVATION_NONE 0
#define HAX_ACTIVATION_SILU 1

typedef struct hax_causal_conv1d_forward_args {
  size_t struct_size;
  const hax_tensor* x;             /* in, (B, L, D), T */
  const hax_tensor* weight;        /* in, (D, W), T or fp32; 2 <= W <= 8 */
  const hax_tensor* bias;          /* in, optional, (D), fp32 */
  const hax_tensor* cu_seqlens;    /* in, optional, (S + 1), int32 or int64 */
  const hax_tensor* initial_state; /* in, optional, (B or S, W-1, D), any float type; oldest first */
  const hax_tensor* y;             /* out, (B, L, D), T */
  const hax_tensor* final_state;   /* out, optional, (B or S, W-1, D), any float type: the last W-1
                                      inputs, from initial_state (or 0) where the sequence is shorter */
  int32_t activation;              /* HAX_ACTIVATION_* */
} hax_causal_conv1d_forward_args;

/* Errors: INVALID_ARGUMENT, UNSUPPORTED (types, W, device), WORKSPACE_TOO_SMALL, CUDA. */
HAX_API hax_status hax_causal_conv1d_forward_workspace(const hax_context* context,
                                                       const hax_causal_conv1d_forward_args* args,
                                                       size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_causal_conv1d_forward(const hax_context* context,
                                             const hax_causal_conv1d_forward_args* args,
                                             void* workspace, size_t workspace_size,
                                             void* stream) HAX_NOEXCEPT;

typedef struct hax_causal_conv1d_backward_args {
  size_t struct_size;
  const hax_tensor* x;              /* in, as in forward */
  const hax_tensor* weight;         /* in, as in forward */
  const hax_tensor* bias;           /* in, optional, as in forward */
  const hax_tensor* cu_seqlens;     /* in, optional, as in forward */
  const hax_tensor* initial_state;  /* in, optional, as in forward */
  const hax_tensor* dy;             /* in, (B, L, D), T */
  const hax_tensor* dfinal_state;   /* in, optional, (B or S, W-1, D), any float type */
  const hax_tensor* dx;             /* out, optional, (B, L, D), T */
  const hax_tensor* dweight;        /* out, optional, (D, W), fp32 */
  const hax_tensor* dbias;          /* out, optional, (D), fp32 */
  const hax_tensor* dinitial_state; /* out, optional, (B or S, W-1, D), any float type */
  int32_t activation;               /* as in forward */
  int32_t deterministic;            /* 1: the same bits every run; 0: the library may choose */
} hax_causal_conv1d_backward_args;

HAX_API hax_status hax_causal_conv1d_backward_workspace(const hax_context* context,
                                                        const hax_causal_conv1d_backward_args* args,
                                                        size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_causal_conv1d_backward(const hax_context* context,
                                              const hax_causal_conv1d_backward_args* args,
                                              void* workspace, size_t workspace_size,
                                              void* stream) HAX_NOEXCEPT;

/* A few tokens for each of B sequences whose states live in a pool of slots (decoding). */
typedef struct hax_causal_conv1d_step_args {
  size_t struct_size;
  const hax_tensor* x;          /* in, (B, T, D), T tokens a sequence */
  const hax_tensor* weight;     /* in, as in forward */
  const hax_tensor* bias;       /* in, optional, as in forward */
  const hax_tensor* state;      /* in and out, (slots, W-1, D), any float type */
  const hax_tensor* src_slots;  /* in, optional, (B), int32: slot each sequence starts from; negative:
                                   a padding entry, neither its y nor any state is written.
                                   NULL: slot b (slots >= B) */
  const hax_tensor* dst_slots;  /* in, optional, int32: (B): slot that receives the state after the last
                                   token; (B, T): slot that receives the state after each token, for
                                   roll-back; negative: not written. NULL: src_slots.
                                   No slot may be written twice, or read by one sequence and written
                                   by another. */
  const hax_tensor* y;          /* out, (B, T, D) */
  int32_t activation;           /* as in forward */
} hax_causal_conv1d_step_args;

HAX_API hax_status hax_causal_conv1d_step_workspace(const hax_context* context,
                                                    const hax_causal_conv1d_step_args* args,
                                                    size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_causal_conv1d_step(const hax_context* context,
                                          const hax_causal_conv1d_step_args* args, void* workspace,
                                          size_t workspace_size, void* stream) HAX_NOEXCEPT;

HAX_END_DECLS

#endif /* HAX_CAUSAL_CONV1D_H_ */
