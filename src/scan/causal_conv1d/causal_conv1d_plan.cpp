#include <algorithm>

#include "core/backend.hpp"
#include "core/cpu_dispatch.hpp"
#include "scan/causal_conv1d/causal_conv1d.hpp"
#include "scan/scan_blocks.hpp"

namespace hax::causal_conv1d {
namespace {

// CUDA: tokens of a tile. Long tiles read few tokens twice, short ones give small tensors enough threads: rows are cut
// into tiles of `longest` tokens, or as evenly as `multiple` allows into as many as make `enough` blocks or threads,
// each of at least `shortest` tokens. `per_tile` is what a tile of every row makes.
int64_t choose_tile(int64_t length, int64_t per_tile, int64_t enough, int64_t longest,
                    int64_t shortest, int64_t multiple) {
  if (ceil_div(length, longest) * per_tile >= enough || length == 0) return longest;
  const int64_t tiles = std::max<int64_t>(1, enough / std::max<int64_t>(1, per_tile));
  const int64_t even = ceil_div(ceil_div(length, tiles), multiple) * multiple;
  return std::clamp(even, shortest, longest);
}

}  // namespace

ForwardPlan Forward::plan(const ForwardParams& p, const Context&, Workspace&) {
  ForwardPlan plan;
  if (!use_cuda(p.device, name)) return plan;
  // All that 132 multiprocessors hold: B64 L1057 D128 takes 0.0151 ms with 24 tokens, 0.0165 with 32 (H100).
  constexpr int64_t kEnoughThreads = 132 * 6 * 128;
  plan.tile_tokens = choose_tile(p.sequences.length, p.sequences.batch * ceil_div(p.channels, 4),
                                 kEnoughThreads, 32, 16, 4);
  plan.tiles_per_row = ceil_div(p.sequences.length, plan.tile_tokens);
  return plan;
}

void Forward::run(const ForwardParams& p, const ForwardPlan& plan, const Context& context,
                  void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_forward(p, plan, stream);
  }
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_forward<level.value>(p, plan, context.num_threads); });
}

BackwardPlan Backward::plan(const BackwardParams& p, const Context&, Workspace& workspace) {
  BackwardPlan plan;
  plan.tile_tokens = kTileTokens;
  bool partial = true;
  if (use_cuda(p.device, name)) {
    constexpr int64_t kEnoughBlocks = 132 * 2;  // of 128 channels
    const int64_t per_tile = p.sequences.batch * ceil_div(p.channels, 128);
    plan.tile_tokens = choose_tile(p.sequences.length, per_tile, kEnoughBlocks, 512,
                                   8 * kBackwardRuns, 4 * kBackwardRuns);
    plan.at_once = ceil_div(p.sequences.length, plan.tile_tokens) * per_tile <= kEnoughBlocks;
    partial = p.sums();
  }
  plan.tiles_per_row = ceil_div(p.sequences.length, plan.tile_tokens);
  const int64_t rows = partial ? p.sequences.batch * plan.tiles_per_row : 0;
  plan.partial = workspace.take<float>(rows * (p.width + 1) * p.channels);
  return plan;
}

void Backward::run(const BackwardParams& p, const BackwardPlan& plan, const Context& context,
                   void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_backward(p, plan, stream);
  }
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_backward<level.value>(p, plan, context.num_threads); });
}

StepPlan Step::plan(const StepParams& p, const Context&, Workspace&) {
  use_cuda(p.device, name);
  return {};
}

void Step::run(const StepParams& p, const StepPlan&, const Context& context, void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_step(p, stream);
  }
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_step<level.value>(p, context.num_threads); });
}

}  // namespace hax::causal_conv1d
