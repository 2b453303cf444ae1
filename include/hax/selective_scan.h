/* hax: selective scan, the state-space recurrence of Mamba (arXiv 2312.00752).
 *
 *   dt = delta + delta_bias, then softplus where asked
 *   h_t[d,n] = exp(dt_t[d] A[d,n]) h_{t-1}[d,n] + dt_t[d] B_t[g,n] u_t[d]
 *   y_t[d]   = (sum_n C_t[g,n] h_t[d,n] + D[d] u_t[d]) * SiLU(z_t[d])
 *
 * with channel d in group g = d / (D/G), h_0 = initial_state or 0; terms of absent arguments drop out. */
#ifndef HAX_SELECTIVE_SCAN_H_
#define HAX_SELECTIVE_SCAN_H_

#include "hax/context.h"
#include "hax/tensor.h"

HAX_BEGIN_DECLS

typedef struct hax_selective_scan_forward_args {
  size_t struct_size;
  const hax_tensor* u;             /* in, (B, L, D), T */
  const hax_tensor* delta;         /* in, (B, L, D), T */
  const hax_tensor* A;             /* in, (D, N), fp32, negative; 1 <= N <= 256 */
  const hax_tensor* B;             /* in, (B, L, G, N), T; G divides D */
  const hax_tensor* C;             /* in, (B, L, G, N), T */
  const hax_tensor* D;             /* in, optional, (D), fp32 */
  const hax_tensor* z;             /* in, optional, (B, L, D), T */
  const hax_tensor* delta_bias;    /* in, optional, (D), fp32 */
  const hax_tensor* cu_seqlens;    /* in, optional, (S + 1), int32 or int64 */
  const hax_tensor* initial_state; /* in, optional, (B or S, D, N), any float type */
  const hax_tensor* y;             /* out, (B, L, D), T */
  const hax_tensor* final_state;   /* out, optional, (B or S, D, N), any float type */
  const hax_tensor* checkpoints;   /* out, optional, any float type: the state after every
                                      `checkpoint_every` tokens of a sequence,
                                      (B, floor(L / checkpoint_every), D, N). Packed: the c-th state of
                                      sequence s is row floor(cu_seqlens[s] / checkpoint_every) + c of
                                      axis 1; rows no state falls on are not written */
  int64_t checkpoint_every;        /* tokens, >= 1 where checkpoints is given, otherwise 0 */
  int32_t delta_softplus;          /* 1: dt = softplus(...), exact and never overflowing; 0: plain */
} hax_selective_scan_forward_args;

/* Errors: INVALID_ARGUMENT, UNSUPPORTED (types, N, device), WORKSPACE_TOO_SMALL, CUDA. */
HAX_API hax_status hax_selective_scan_forward_workspace(const hax_context* context,
                                                        const hax_selective_scan_forward_args* args,
                                                        size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_selective_scan_forward(const hax_context* context,
                                              const hax_selective_scan_forward_args* args,
                                              void* workspace, size_t workspace_size,
                                              void* stream) HAX_NOEXCEPT;

typedef struct hax_selective_scan_backward_args {
  size_t struct_size;
  const hax_tensor* u;              /* in, as in forward, like all down to initial_state */
  const hax_tensor* delta;
  const hax_tensor* A;
  const hax_tensor* B;
  const hax_tensor* C;
  const hax_tensor* D;              /* optional */
  const hax_tensor* z;              /* optional */
  const hax_tensor* delta_bias;     /* optional */
  const hax_tensor* cu_seqlens;     /* optional */
  const hax_tensor* initial_state;  /* optional */
  const hax_tensor* checkpoints;    /* in, optional, fp32: as forward wrote them; spares backward the
                                       recomputation of the states it starts from */
  const hax_tensor* dy;             /* in, (B, L, D), T */
  const hax_tensor* dfinal_state;   /* in, optional, (B or S, D, N), any float type */
  const hax_tensor* du;             /* out, optional, (B, L, D), T */
  const hax_tensor* ddelta;         /* out, optional, (B, L, D), T */
  const hax_tensor* dA;             /* out, optional, (D, N), fp32 */
  const hax_tensor* dB;             /* out, optional, (B, L, G, N), T */
  const hax_tensor* dC;             /* out, optional, (B, L, G, N), T */
  const hax_tensor* dD;             /* out, optional, (D), fp32; needs D */
  const hax_tensor* dz;             /* out, optional, (B, L, D), T; needs z */
  const hax_tensor* ddelta_bias;    /* out, optional, (D), fp32; needs delta_bias */
  const hax_tensor* dinitial_state; /* out, optional, (B or S, D, N), any float type; also allowed
                                       where initial_state is absent (taken as 0) */
  int64_t checkpoint_every;         /* tokens, as given to forward; 0 where checkpoints is absent */
  int32_t delta_softplus;           /* as in forward */
  int32_t deterministic;            /* 1: the same bits every run; 0: the library may choose */
} hax_selective_scan_backward_args;

HAX_API hax_status hax_selective_scan_backward_workspace(
    const hax_context* context, const hax_selective_scan_backward_args* args,
    size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_selective_scan_backward(const hax_context* context,
                                               const hax_selective_scan_backward_args* args,
                                               void* workspace, size_t workspace_size,
                                               void* stream) HAX_NOEXCEPT;

/* A few tokens for each of B sequences whose states live in a pool of slots (decoding). */
typedef struct hax_selective_scan_step_args {
  size_t struct_size;
  const hax_tensor* u;          /* in, (B, T, D), T tokens a sequence */
  const hax_tensor* delta;      /* in, (B, T, D) */
  const hax_tensor* A;          /* in, as in forward */
  const hax_tensor* B;          /* in, (B, T, G, N) */
  const hax_tensor* C;          /* in, (B, T, G, N) */
  const hax_tensor* D;          /* in, optional, as in forward */
  const hax_tensor* z;          /* in, optional, (B, T, D) */
  const hax_tensor* delta_bias; /* in, optional, as in forward */
  const hax_tensor* state;      /* in and out, (slots, D, N), any float type */
  const hax_tensor* src_slots;  /* in, optional, (B), int32: slot each sequence starts from; negative:
                                   a padding entry, neither its y nor any state is written.
                                   NULL: slot b (slots >= B) */
  const hax_tensor* dst_slots;  /* in, optional, int32: (B): slot that receives the state after the last
                                   token; (B, T): slot that receives the state after each token, for
                                   roll-back; negative: not written. NULL: src_slots.
                                   No slot may be written twice, or read by one sequence and written
                                   by another. */
  const hax_tensor* y;          /* out, (B, T, D) */
  int32_t delta_softplus;       /* as in forward */
} hax_selective_scan_step_args;

HAX_API hax_status hax_selective_scan_step_workspace(const hax_context* context,
                                                     const hax_selective_scan_step_args* args,
                                                     size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_selective_scan_step(const hax_context* context,
                                           const hax_selective_scan_step_args* args,
                                           void* workspace, size_t workspace_size,
                                           void* stream) HAX_NOEXCEPT;

HAX_END_DECLS

#endif /* HAX_SELECTIVE_SCAN_H_ */
