// causal_conv1d's rooms: check (arguments to Params), plan (workspace, backend), cpu (kernels), launch and
// kernel (CUDA).
#pragma once

#include "core/check.hpp"
#include "core/context.hpp"
#include "core/tensor.hpp"
#include "core/workspace.hpp"
#include "hax/causal_conv1d.h"
#include "scan/slots.hpp"

namespace hax::causal_conv1d {

inline constexpr int kMinWidth = 2;
inline constexpr int kMaxWidth = 8;

struct ForwardParams {
  hax_device device;
  int64_t channels;  // D
  int width;         // W
  bool silu;
  Sequences sequences;
  Tensor x, weight, bias, initial_state;
  Tensor y, final_state;
};

struct BackwardParams {
  hax_device device;
  int64_t channels;
  int width;
  bool silu;
  Sequences sequences;
  Tensor x, weight, bias, initial_state, dy, dfinal_state;
  Tensor dx, dweight, dbias, dinitial_state;

  // Whether gradients of parameters are wanted.
  HAX_EVERYWHERE bool sums() const { return dweight || dbias; }
};

struct StepParams {
  hax_device device;
  int64_t batch, tokens;  // B, T
  int64_t channels;
  int width;
  bool silu;
  Tensor x, weight, bias, state, y;
  Slots slots;
};

// CUDA: every thread walks a tile of tokens of one batch row.
struct ForwardPlan {
  int64_t tile_tokens = 0;
  int64_t tiles_per_row = 0;
};

// Work is cut into tiles of tokens of one batch row and blocks of channels. Every tile leaves its share of
// the parameters' gradients in a row of its own; the rows are added in order, so the sums don't depend
// on threads.
struct BackwardPlan {
  int64_t tile_tokens;
  int64_t tiles_per_row;
  bool at_once = false;  // CUDA: whether a GPU runs all blocks at once
  float* partial;        // (B * tiles_per_row, W + 1, D): dweight, then dbias
};

struct StepPlan {};

struct Forward {
  using Args = hax_causal_conv1d_forward_args;
  static constexpr const char* name = "hax_causal_conv1d_forward";
  static ForwardParams check(Checker&, const Args&);
  static ForwardPlan plan(const ForwardParams&, const Context&, Workspace&);
  static void run(const ForwardParams&, const ForwardPlan&, const Context&, void* stream);
};

struct Backward {
  using Args = hax_causal_conv1d_backward_args;
  static constexpr const char* name = "hax_causal_conv1d_backward";
  static BackwardParams check(Checker&, const Args&);
  static BackwardPlan plan(const BackwardParams&, const Context&, Workspace&);
  static void run(const BackwardParams&, const BackwardPlan&, const Context&, void* stream);
};

struct Step {
  using Args = hax_causal_conv1d_step_args;
  static constexpr const char* name = "hax_causal_conv1d_step";
  static StepParams check(Checker&, const Args&);
  static StepPlan plan(const StepParams&, const Context&, Workspace&);
  static void run(const StepParams&, const StepPlan&, const Context&, void* stream);
};

// Tokens of a tile on the CPU.
inline constexpr int64_t kTileTokens = 512;

// On CUDA a block's tile is cut into this many runs of tokens, each walked by threads of its own.
inline constexpr int kBackwardRuns = 8;

template <CpuLevel level>
void cpu_forward(const ForwardParams&, const ForwardPlan&, int num_threads);
template <CpuLevel level>
void cpu_backward(const BackwardParams&, const BackwardPlan&, int num_threads);
template <CpuLevel level>
void cpu_step(const StepParams&, int num_threads);

void cuda_forward(const ForwardParams&, const ForwardPlan&, void* stream);
void cuda_backward(const BackwardParams&, const BackwardPlan&, void* stream);
void cuda_step(const StepParams&, void* stream);

}  // namespace hax::causal_conv1d
