// Launches ssd's backward, all but the sums of parameters' gradients, for one shape of tiles.
#pragma once

#include "core/integer.hpp"
#include "device/launch.cuh"
#include "scan/ssd/ssd_kernel_backward_chunk.cuh"
#include "scan/ssd/ssd_kernel_backward_gate.cuh"
#include "scan/ssd/ssd_kernel_backward_heads.cuh"
#include "scan/ssd/ssd_kernel_backward_heads_walk.cuh"
#include "scan/ssd/ssd_kernel_backward_inputs.cuh"
#include "scan/ssd/ssd_kernel_backward_outputs.cuh"
#include "scan/ssd/ssd_kernel_backward_shares.cuh"
#include "scan/ssd/ssd_kernel_backward_states.cuh"
#include "scan/ssd/ssd_kernel_backward_steps.cuh"

namespace hax::ssd {

template <class S>
void launch_backward(const device::Launcher& launch, const BackwardParams& p,
                     const CudaBackwardPlan& plan) {
  using T = typename S::T;
  constexpr size_t kSmall = 99 * 1024;
  static_assert(sizeof(WalkShared<S>) <= kSmall);
  const auto vectors = [](const Tensor& tensor) {
    return device::moves_in_vectors<device::kVectorElements<T>>(tensor);
  };
  const BackwardAccess access = {vectors(p.x),
                                 vectors(plan.g),
                                 vectors(p.dx),
                                 vectors(p.B),
                                 vectors(p.C),
                                 device::moves_in_vectors<2>(p.dB),
                                 device::moves_in_vectors<2>(p.dC)};
  const int64_t step_blocks = plan.chunks.count * ceil_div(p.heads, kStepHeads);
  const int64_t blocks = plan.chunks.count * p.groups * plan.shares;
  const int64_t elements = p.batch * p.length * p.heads * p.width;
  if (p.z) {
    launch(backward_gate_kernel<T>, ceil_div(elements, kGateThreads), kGateThreads, 0, p, plan);
  }
  const int64_t both = 2 * p.sequences.count();  // forwards and back
  const auto walk = [&](int64_t segments, bool only_sums) {
    if constexpr (S::kGradients == Gradients::by_warps) {
      static_assert(sizeof(HeadsWalkShared<S>) <= kSmall);
      const int64_t blocks = p.heads > 0 ? p.groups * ceil_div(p.heads / p.groups, kHeadWarps) : 0;
      launch(backward_heads_walk_kernel<S>, both * blocks * segments, kHeadWalkThreads,
             sizeof(HeadsWalkShared<S>), p, plan, access, only_sums);
    } else {
      launch(backward_states_kernel<S>, both * plan.units(p.heads) * segments,
             (S::kWalkWarps + kWalkFetchers) * device::kWarp, sizeof(WalkShared<S>), p, plan,
             access, only_sums);
    }
  };
  if constexpr (S::kGradients != Gradients::by_warps) {
    launch(backward_steps_kernel<S>, step_blocks, kStepsThreads, 0, p, plan);
  }
  walk(plan.segments - 1, true);
  walk(plan.segments, false);
  if constexpr (S::kGradients == Gradients::by_warpgroups) {
    static_assert(sizeof(ChunkShared<S>) <= 227 * 1024);
    launch(backward_chunk_kernel<S>, p.heads > 0 ? blocks : 0, kChunkThreads,
           sizeof(ChunkShared<S>), p, plan, access);
  } else if constexpr (S::kGradients == Gradients::by_warps) {
    static_assert(sizeof(HeadsShared<S>) <= 75 * 1024);  // three blocks a processor
    launch(backward_heads_kernel<S>, p.heads > 0 ? blocks : 0, kHeadThreads, sizeof(HeadsShared<S>),
           p, plan, access);
  } else if (p.heads > 0) {
    static_assert(sizeof(InputShared<S>) <= kSmall && sizeof(OutputShared<S>) <= kSmall);
    launch(backward_inputs_kernel<S>, blocks, kInputThreads<S>, sizeof(InputShared<S>), p, plan,
           access);
    launch(backward_outputs_kernel<S>, blocks, kOutputThreads<S>, sizeof(OutputShared<S>), p, plan,
           access);
  }
  if (plan.shares != 1 && (p.dB || p.dC)) {
    launch(backward_sum_shares_kernel<T>, ceil_div(p.batch * p.length * p.groups, kShareRows),
           kShareRows * device::kWarp, 0, p, plan);
  }
  if (S::kGradients != Gradients::by_warps && (p.ddt || p.ddt_bias)) {
    launch(backward_step_gradients_kernel<S>, step_blocks, kStepsThreads, 0, p, plan);
  }
  if (p.dz) {
    launch(backward_gate_gradient_kernel<T>, ceil_div(elements, kGateThreads), kGateThreads, 0, p,
           plan);
  }
}

// Calls launch_backward with the plan's shape, one of the list.
template <class T, const auto& kShapes, size_t i = 0>
void dispatch_backward(const device::Launcher& launch, const BackwardParams& p,
                       const CudaBackwardPlan& plan) {
  if constexpr (i < std::size(kShapes)) {
    constexpr CudaBackwardShape s = kShapes[i];
    if (plan.shape == s) {
      launch_backward<BackwardShape<T, s.tokens, s.states, s.width, s.gradients>>(launch, p, plan);
    } else {
      dispatch_backward<T, kShapes, i + 1>(launch, p, plan);
    }
  }
}

void backward_bf16(const device::Launcher&, const BackwardParams&, const CudaBackwardPlan&);
void backward_fp16(const device::Launcher&, const BackwardParams&, const CudaBackwardPlan&);
void backward_fp32(const device::Launcher&, const BackwardParams&, const CudaBackwardPlan&);

}  // namespace hax::ssd
