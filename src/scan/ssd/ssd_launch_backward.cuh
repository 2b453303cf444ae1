// Launches ssd's backward, all but the sums of parameters' gradients, for one shape of tiles.
#pragma once

#include "core/integer.hpp"
#include "device/launch.cuh"
#include "scan/ssd/ssd_kernel_backward_shares.cuh"
#include "scan/ssd/ssd_kernel_backward_states.cuh"
#include "scan/ssd/ssd_kernel_backward_steps.cuh"
#include "scan/ssd/ssd_kernel_backward_tile.cuh"

namespace hax::ssd {

template <class S>
void launch_backward(const device::Launcher& launch, const BackwardParams& p,
                     const CudaBackwardPlan& plan) {
  using T = typename S::T;
  static_assert(sizeof(WalkShared<S>) <= 99 * 1024);
  static_assert(sizeof(TileShared<S>) <= (S::kTileWarps == 16 ? 224 : 99) * 1024);
  constexpr int V = device::kVectorElements<T>;
  const auto vectors = [](const Tensor& tensor) { return device::moves_in_vectors<V>(tensor); };
  const BackwardAccess access = {vectors(p.x),  vectors(p.dy), vectors(p.dx),
                                 vectors(p.dz), vectors(p.B),  vectors(p.C)};
  const int64_t step_blocks = plan.chunks.count * ceil_div(p.heads, kStepHeads);
  launch(backward_steps_kernel<S>, step_blocks, kStepsThreads, 0, p, plan);
  launch(backward_states_kernel<S>, 2 * p.sequences.count() * plan.units(p.heads),
         (S::kWalkWarps + 1) * device::kWarp, sizeof(WalkShared<S>), p, plan, access);
  if (p.heads == 0) return;
  launch(backward_tile_kernel<S>, plan.tiles() * p.groups * plan.shares,
         S::kTileWarps * device::kWarp, sizeof(TileShared<S>), p, plan, access);
  if (plan.gradients) {
    launch(backward_sum_shares_kernel<T>,
           ceil_div(p.batch * p.length * p.groups * p.states, kShareThreads), kShareThreads, 0, p,
           plan);
  }
  if (p.ddt || p.ddt_bias) {
    launch(backward_step_gradients_kernel<S>, step_blocks, kStepsThreads, 0, p, plan);
  }
}

// Calls launch_backward with the plan's shape, one of the list.
template <class T, const auto& kShapes, size_t i = 0>
void dispatch_backward(const device::Launcher& launch, const BackwardParams& p,
                       const CudaBackwardPlan& plan) {
  if constexpr (i < std::size(kShapes)) {
    constexpr CudaBackwardShape s = kShapes[i];
    if (plan.shape == s) {
      launch_backward<BackwardShape<T, s.tokens, s.states, s.width, s.stages>>(launch, p, plan);
    } else {
      dispatch_backward<T, kShapes, i + 1>(launch, p, plan);
    }
  }
}

void backward_bf16(const device::Launcher&, const BackwardParams&, const CudaBackwardPlan&);
void backward_fp16(const device::Launcher&, const BackwardParams&, const CudaBackwardPlan&);
void backward_fp32(const device::Launcher&, const BackwardParams&, const CudaBackwardPlan&);

}  // namespace hax::ssd
