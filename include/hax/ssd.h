/* hax: state-space duality, the recurrence of Mamba-2 (Dao and Gu, arXiv 2405.21060).
 *
 *   dt = clamp(softplus(dt + dt_bias), dt_min, dt_max)
 *   h_t[h,p,n] = exp(dt_t[h] A[h]) h_{t-1}[h,p,n] + dt_t[h] x_t[h,p] B_t[g,n]
 *   y_t[h,p]   = (sum_n C_t[g,n] h_t[h,p,n] + D x_t[h,p]) * SiLU(z_t[h,p])
 *
 * with head h in group g = h / (H/G), h_0 = initial_state or 0; terms of absent arguments drop out. */
#ifndef HAX_SSD_H_
#define HAX_SSD_H_

#include "hax/context.h"
#include "hax/tensor.h"

HAX_BEGIN_DECLS

typedef struct hax_ssd_forward_args {
  size_t struct_size;
  const hax_tensor* x;             /* in, (B, L, H, P), T; 1 <= P <= 256 */
  const hax_tensor* dt;            /* in, (B, L, H), T or fp32 */
  const hax_tensor* A;             /* in, (H), fp32, negative */
  const hax_tensor* B;             /* in, (B, L, G, N), T; G divides H; 1 <= N <= 256 */
  const hax_tensor* C;             /* in, (B, L, G, N), T */
  const hax_tensor* D;             /* in, optional, (H) or (H, P), fp32 */
  const hax_tensor* z;             /* in, optional, (B, L, H, P), T */
  const hax_tensor* dt_bias;       /* in, optional, (H), fp32 */
  const hax_tensor* cu_seqlens;    /* in, optional, (S + 1), int32 or int64 */
  const hax_tensor* initial_state; /* in, optional, (B or S, H, P, N), any float type */
  const hax_tensor* y;             /* out, (B, L, H, P), T */
  const hax_tensor* final_state;   /* out, optional, (B or S, H, P, N), any float type */
  const hax_tensor* checkpoints;   /* out, optional, any float type: the state after every
                                      `checkpoint_every` tokens of a sequence,
                                      (B, floor(L / checkpoint_every), H, P, N). Packed: the c-th state
                                      of sequence s is row floor(cu_seqlens[s] / checkpoint_every) + c
                                      of axis 1; rows no state falls on are not written */
  int64_t checkpoint_every;        /* tokens, >= 1 where checkpoints is given, otherwise 0 */
  float dt_min;                    /* lower limit of dt, >= 0; 0: none */
  float dt_max;                    /* upper limit of dt, >= dt_min; 0: none */
} hax_ssd_forward_args;

/* Errors: INVALID_ARGUMENT, UNSUPPORTED (types, N, P, device), WORKSPACE_TOO_SMALL, CUDA. */
HAX_API hax_status hax_ssd_forward_workspace(const hax_context* context,
                                             const hax_ssd_forward_args* args,
                                             size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_ssd_forward(const hax_context* context, const hax_ssd_forward_args* args,
                                   void* workspace, size_t workspace_size,
                                   void* stream) HAX_NOEXCEPT;

typedef struct hax_ssd_backward_args {
  size_t struct_size;
  const hax_tensor* x;              /* in, as in forward, like all down to initial_state */
  const hax_tensor* dt;
  const hax_tensor* A;
  const hax_tensor* B;
  const hax_tensor* C;
  const hax_tensor* D;              /* optional */
  const hax_tensor* z;              /* optional */
  const hax_tensor* dt_bias;        /* optional */
  const hax_tensor* cu_seqlens;     /* optional */
  const hax_tensor* initial_state;  /* optional */
  const hax_tensor* checkpoints;    /* in, optional, fp32: as forward wrote them; spares backward the
                                       recomputation of the states it starts from */
  const hax_tensor* dy;             /* in, (B, L, H, P), T */
  const hax_tensor* dfinal_state;   /* in, optional, (B or S, H, P, N), any float type */
  const hax_tensor* dx;             /* out, optional, (B, L, H, P), T */
  const hax_tensor* ddt;            /* out, optional, (B, L, H), the type of dt; 0 where dt is clamped */
  const hax_tensor* dA;             /* out, optional, (H), fp32 */
  const hax_tensor* dB;             /* out, optional, (B, L, G, N), T */
  const hax_tensor* dC;             /* out, optional, (B, L, G, N), T */
  const hax_tensor* dD;             /* out, optional, the shape of D, fp32; needs D */
  const hax_tensor* dz;             /* out, optional, (B, L, H, P), T; needs z */
  const hax_tensor* ddt_bias;       /* out, optional, (H), fp32; needs dt_bias */
  const hax_tensor* dinitial_state; /* out, optional, (B or S, H, P, N), any float type; also allowed
                                       where initial_state is absent (taken as 0) */
  int64_t checkpoint_every;         /* tokens, as given to forward; 0 where checkpoints is absent */
  float dt_min;                     /* as in forward */
  float dt_max;                     /* as in forward */
  int32_t deterministic;            /* 1: the same bits every run; 0: the library may choose */
} hax_ssd_backward_args;

HAX_API hax_status hax_ssd_backward_workspace(const hax_context* context,
                                              const hax_ssd_backward_args* args,
                                              size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_ssd_backward(const hax_context* context, const hax_ssd_backward_args* args,
                                    void* workspace, size_t workspace_size,
                                    void* stream) HAX_NOEXCEPT;

/* A few tokens for each of B sequences whose states live in a pool of slots (decoding). */
typedef struct hax_ssd_step_args {
  size_t struct_size;
  const hax_tensor* x;         /* in, (B, T, H, P), T tokens a sequence */
  const hax_tensor* dt;        /* in, (B, T, H) */
  const hax_tensor* A;         /* in, as in forward */
  const hax_tensor* B;         /* in, (B, T, G, N) */
  const hax_tensor* C;         /* in, (B, T, G, N) */
  const hax_tensor* D;         /* in, optional, as in forward */
  const hax_tensor* z;         /* in, optional, (B, T, H, P) */
  const hax_tensor* dt_bias;   /* in, optional, as in forward */
  const hax_tensor* state;     /* in and out, (slots, H, P, N), any float type */
  const hax_tensor* src_slots; /* in, optional, (B), int32: slot each sequence starts from; negative: a
                                  padding entry, neither its y nor any state is written.
                                  NULL: slot b (slots >= B) */
  const hax_tensor* dst_slots; /* in, optional, int32: (B): slot that receives the state after the last
                                  token; (B, T): slot that receives the state after each token, for
                                  roll-back; negative: not written. NULL: src_slots. No slot may be
                                  written twice, or read by one sequence and written by another. */
  const hax_tensor* y;         /* out, (B, T, H, P) */
  float dt_min;                /* as in forward */
  float dt_max;                /* as in forward */
} hax_ssd_step_args;

HAX_API hax_status hax_ssd_step_workspace(const hax_context* context,
                                          const hax_ssd_step_args* args,
                                          size_t* bytes) HAX_NOEXCEPT;
HAX_API hax_status hax_ssd_step(const hax_context* context, const hax_ssd_step_args* args,
                                void* workspace, size_t workspace_size,
                                void* stream) HAX_NOEXCEPT;

HAX_END_DECLS

#endif /* HAX_SSD_H_ */
