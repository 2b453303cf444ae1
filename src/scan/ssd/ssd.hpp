// ssd's rooms: check (arguments to Params), plan (workspace, backend), cpu (kernels), launch and kernel (CUDA).
#pragma once

#include "core/check.hpp"
#include "core/context.hpp"
#include "core/tensor.hpp"
#include "core/workspace.hpp"
#include "hax/ssd.h"
#include "scan/scan_backward_plan.hpp"
#include "scan/scan_blocks.hpp"
#include "scan/scan_checkpoints.hpp"
#include "scan/slots.hpp"
#include "scan/ssd/ssd_cuda.hpp"
#include "scan/ssd/ssd_cuda_backward.hpp"

namespace hax::ssd {

inline constexpr int64_t kMaxHeadWidth = 256;  // P

// What forward, backward and step read.
struct Inputs {
  hax_device device;
  int64_t batch, length;                 // B, L (T in step)
  int64_t heads, width, states, groups;  // H, P, N, G
  float dt_min, dt_max;                  // 0 and infinity: no limit
  Tensor x, dt, A, B, C, D, z, dt_bias;
};

struct ForwardParams : Inputs {
  Sequences sequences;
  Tensor initial_state, y, final_state;
  Checkpoints checkpoints;
};

struct BackwardParams : Inputs {
  Sequences sequences;
  Tensor initial_state, dy, dfinal_state;
  Checkpoints checkpoints;
  Tensor dx, ddt, dA, dB, dC, dD, dz, ddt_bias, dinitial_state;
};

struct StepParams : Inputs {
  int64_t tokens;  // T
  Tensor state, y;
  Slots slots;
};

struct ForwardPlan {
  ScanForwardPlan cpu;
  CudaForwardPlan cuda;
};

struct BackwardPlan {
  ScanBackwardPlan cpu;
  CudaBackwardPlan cuda;
};

struct Forward {
  using Args = hax_ssd_forward_args;
  static constexpr const char* name = "hax_ssd_forward";
  static ForwardParams check(Checker&, const Args&);
  static ForwardPlan plan(const ForwardParams&, const Context&, Workspace&);
  static void run(const ForwardParams&, const ForwardPlan&, const Context&, void* stream);
};

struct Backward {
  using Args = hax_ssd_backward_args;
  static constexpr const char* name = "hax_ssd_backward";
  static BackwardParams check(Checker&, const Args&);
  static BackwardPlan plan(const BackwardParams&, const Context&, Workspace&);
  static void run(const BackwardParams&, const BackwardPlan&, const Context&, void* stream);
};

struct Step {
  using Args = hax_ssd_step_args;
  static constexpr const char* name = "hax_ssd_step";
  static StepParams check(Checker&, const Args&);
  static ScanForwardPlan plan(const StepParams&, const Context&, Workspace&);
  static void run(const StepParams&, const ScanForwardPlan&, const Context&, void* stream);
};

// Rows of fp32 in scratch memory are padded to whole vectors.
HAX_INLINE int64_t padded(int64_t n) { return round_up(n, kScanPadding); }

// Floats of one head's state, (N, P) with padded rows.
HAX_INLINE int64_t head_state_size(const Inputs& in) { return in.states * padded(in.width); }

// What a thread holds of a block of heads, in fp32. T stands for kScanTile, rows are padded.
struct Buffers {
  float* state;                // (heads of the block, N, P)
  float *raw, *dt, *slope;     // (heads, T): dt before and after softplus and clamp, its slope
  float *high, *low;           // (T): sum of dt A up to and with each token, as a sum of two
  float *from_start, *to_end;  // (T): decay from the tile's start to t, and from t to its end
  float *B, *C, *weighted;     // (T, N)
  float* transposed;           // (N or P, T)
  float* scores;               // (T, T): C_t . B_s
  float *decay, *mix;          // (T, T): decay from s to t; decay times dt_s times the score
  float *x, *y;                // (T, P)
  float* skip;                 // (P): D of a head

  HAX_INLINE Buffers(const Inputs& in, int64_t heads, Workspace& scratch)
      : state(scratch.take<float>(heads * head_state_size(in))),
        raw(scratch.take<float>(heads * kScanTile)),
        dt(scratch.take<float>(heads * kScanTile)),
        slope(scratch.take<float>(heads * kScanTile)),
        high(scratch.take<float>(kScanTile)),
        low(scratch.take<float>(kScanTile)),
        from_start(scratch.take<float>(kScanTile)),
        to_end(scratch.take<float>(kScanTile)),
        B(scratch.take<float>(kScanTile * padded(in.states))),
        C(scratch.take<float>(kScanTile * padded(in.states))),
        weighted(scratch.take<float>(kScanTile * padded(in.states))),
        transposed(scratch.take<float>(kScanTile * larger(in.states, in.width))),
        scores(scratch.take<float>(kScanTile * kScanTile)),
        decay(scratch.take<float>(kScanTile * kScanTile)),
        mix(scratch.take<float>(kScanTile * kScanTile)),
        x(scratch.take<float>(kScanTile * padded(in.width))),
        y(scratch.take<float>(kScanTile * padded(in.width))),
        skip(scratch.take<float>(padded(in.width))) {}
};

struct BackwardBuffers {
  float* dstate;            // (heads of the block, N, P)
  float *z, *dy, *dsum;     // (T, P); dsum is the gradient of y before the gate
  float *dx, *from_dstate;  // (T, P); from_dstate: what dstate gives to dt x
  float *xt, *dsumt;        // (P, T): x and dsum transposed, weighted by decays
  float *dmix, *dscores;    // (T, T)
  float *dB, *dC;           // (T, N)
  float *dBt, *dCt;         // (N, T): what the states give, transposed
  float* ddt;               // (heads, T)

  HAX_INLINE BackwardBuffers(const Inputs& in, int64_t heads, Workspace& scratch)
      : dstate(scratch.take<float>(heads * head_state_size(in))),
        z(scratch.take<float>(kScanTile * padded(in.width))),
        dy(scratch.take<float>(kScanTile * padded(in.width))),
        dsum(scratch.take<float>(kScanTile * padded(in.width))),
        dx(scratch.take<float>(kScanTile * padded(in.width))),
        from_dstate(scratch.take<float>(kScanTile * padded(in.width))),
        xt(scratch.take<float>(in.width * kScanTile)),
        dsumt(scratch.take<float>(in.width * kScanTile)),
        dmix(scratch.take<float>(kScanTile * kScanTile)),
        dscores(scratch.take<float>(kScanTile * kScanTile)),
        dB(scratch.take<float>(kScanTile * padded(in.states))),
        dC(scratch.take<float>(kScanTile * padded(in.states))),
        dBt(scratch.take<float>(in.states * kScanTile)),
        dCt(scratch.take<float>(in.states * kScanTile)),
        ddt(scratch.take<float>(heads * kScanTile)) {}
};

// Parameter gradients of a head in ScanBackwardPlan::sums: dA, ddt_bias, then P of dD.
HAX_INLINE int64_t head_sums_size(const Inputs& in) { return 2 + in.width; }

template <CpuLevel level>
void cpu_forward(const ForwardParams&, const ScanForwardPlan&, int num_threads);
template <CpuLevel level>
void cpu_backward(const BackwardParams&, const ScanBackwardPlan&, int num_threads);
template <CpuLevel level>
void cpu_step(const StepParams&, const ScanForwardPlan&, int num_threads);

// What plans need to know of a GPU.
struct CudaDevice {
  int64_t processors;       // multiprocessors
  int64_t shared_bytes;     // that a block may have
  bool warpgroup_products;  // whether it has them and this build uses them
};
CudaDevice cuda_device(hax_device);

CudaForwardPlan plan_cuda_forward(const ForwardParams&, Workspace&);
ForwardParams forward_without_gate(const BackwardParams&, const Tensor& y);
CudaBackwardPlan plan_cuda_backward(const BackwardParams&, Workspace&);
// Whether there are kernels of Gradients::by_warpgroups for this device.
bool cuda_has_warpgroup_gradients(hax_device);
void cuda_backward(const BackwardParams&, const CudaBackwardPlan&, void* stream);
void cuda_forward(const ForwardParams&, const CudaForwardPlan&, void* stream);
void cuda_step(const StepParams&, void* stream);

}  // namespace hax::ssd
