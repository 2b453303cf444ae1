// selective_scan's rooms: check (arguments to Params), plan (workspace, backend), cpu (kernels), launch and
// kernel (CUDA).
#pragma once

#include "core/check.hpp"
#include "core/context.hpp"
#include "core/tensor.hpp"
#include "core/workspace.hpp"
#include "hax/selective_scan.h"
#include "scan/scan_backward_plan.hpp"
#include "scan/scan_blocks.hpp"
#include "scan/scan_checkpoints.hpp"
#include "scan/selective_scan/selective_scan_backward_cuda.hpp"
#include "scan/selective_scan/selective_scan_cuda.hpp"
#include "scan/slots.hpp"

namespace hax::selective_scan {

// What forward, backward and step read.
struct Inputs {
  hax_device device;
  int64_t batch, length;             // B, L (T in step)
  int64_t channels, states, groups;  // D, N, G
  bool softplus;
  Tensor u, delta, A, B, C, D, z, delta_bias;
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
  Tensor du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dinitial_state;
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
  using Args = hax_selective_scan_forward_args;
  static constexpr const char* name = "hax_selective_scan_forward";
  static ForwardParams check(Checker&, const Args&);
  static ForwardPlan plan(const ForwardParams&, const Context&, Workspace&);
  static void run(const ForwardParams&, const ForwardPlan&, const Context&, void* stream);
};

struct Backward {
  using Args = hax_selective_scan_backward_args;
  static constexpr const char* name = "hax_selective_scan_backward";
  static BackwardParams check(Checker&, const Args&);
  static BackwardPlan plan(const BackwardParams&, const Context&, Workspace&);
  static void run(const BackwardParams&, const BackwardPlan&, const Context&, void* stream);
};

struct Step {
  using Args = hax_selective_scan_step_args;
  static constexpr const char* name = "hax_selective_scan_step";
  static StepParams check(Checker&, const Args&);
  static ScanForwardPlan plan(const StepParams&, const Context&, Workspace&);
  static void run(const StepParams&, const ScanForwardPlan&, const Context&, void* stream);
};

// What a thread holds of a block of channels, in fp32. `width`: channels of a row, padded. A tile holds
// kScanTile tokens of each vector of channels, vector after vector.
struct Buffers {
  float* rate;              // (N, width): A log2(e)
  float *bias, *skip;       // (width): delta_bias, D
  float* state;             // (N, width)
  float *row, *other_row;   // (width): channels of one token on their way in or out
  float *u, *dt, *dtu, *y;  // tiles; dtu = dt u
  float *B, *C;             // (kScanTile, N)

  HAX_INLINE Buffers(int64_t states, int64_t width, Workspace& scratch)
      : rate(scratch.take<float>(states * width)),
        bias(scratch.take<float>(width)),
        skip(scratch.take<float>(width)),
        state(scratch.take<float>(states * width)),
        row(scratch.take<float>(width)),
        other_row(scratch.take<float>(width)),
        u(scratch.take<float>(kScanTile * width)),
        dt(scratch.take<float>(kScanTile * width)),
        dtu(scratch.take<float>(kScanTile * width)),
        y(scratch.take<float>(kScanTile * width)),
        B(scratch.take<float>(kScanTile * states)),
        C(scratch.take<float>(kScanTile * states)) {}
};

struct BackwardBuffers {
  float* dstate;    // (N, width)
  float* slope;     // tile: d dt / d delta
  float* dsum;      // tile: gradient of y before the gate
  float* dz;        // tile: what y is multiplied with to give dz
  float *du, *ddt;  // tiles; du is without dt and D, ddt without log(2)

  HAX_INLINE BackwardBuffers(int64_t states, int64_t width, Workspace& scratch)
      : dstate(scratch.take<float>(states * width)),
        slope(scratch.take<float>(kScanTile * width)),
        dsum(scratch.take<float>(kScanTile * width)),
        dz(scratch.take<float>(kScanTile * width)),
        du(scratch.take<float>(kScanTile * width)),
        ddt(scratch.take<float>(kScanTile * width)) {}
};

HAX_INLINE int64_t padded_width(const ScanBlocks& blocks) {
  return round_up(blocks.size, kScanPadding);
}

// Parameter gradients of a block in ScanBackwardPlan::sums: N rows of dA, then dD, then ddelta_bias.
HAX_INLINE int64_t sums_size(int64_t states, int64_t width) { return (states + 2) * width; }

template <CpuLevel level>
void cpu_forward(const ForwardParams&, const ScanForwardPlan&, int num_threads);
template <CpuLevel level>
void cpu_backward(const BackwardParams&, const ScanBackwardPlan&, int num_threads);
template <CpuLevel level>
void cpu_step(const StepParams&, const ScanForwardPlan&, int num_threads);

CudaForwardPlan plan_cuda_forward(const ForwardParams&, Workspace&);
CudaBackwardPlan plan_cuda_backward(const BackwardParams&, Workspace&);
void cuda_forward(const ForwardParams&, const CudaForwardPlan&, void* stream);
void cuda_backward(const BackwardParams&, const CudaBackwardPlan&, void* stream);
void cuda_step(const StepParams&, void* stream);

}  // namespace hax::selective_scan
