// Gradients of a chunk's inputs, unit after unit. With dh the gradient of the state behind the chunk, g the gradient of
// y before the gate and decay(t, s) that from token s to token t:
//   mix[t, s] = (C_t . B_s) decay(t, s) dt_s,  dscores = g x^T decay dt, summed over units
//   dx = mix^T g + dt decay(end, s) B dh^T,  dB = dscores^T C + dt decay(end, s) x dh
// and what dt and A receive through mix and dh. Two barriers a unit: mix and what comes through dh before the second, mix^T
// g behind it. Whatever hangs on all warps' results is done beside the next unit's products, by warps that have fewer.
#pragma once

#include "scan/ssd/ssd_kernel_backward_inputs_finish.cuh"
#include "scan/ssd/ssd_kernel_backward_inputs_pairs.cuh"

namespace hax::ssd {

template <class S>
__device__ void InputTile<S>::run() {
  const int states = static_cast<int>(p_.states);
  fetch_group_rows<S>(team_, shared_.B, p_.B, access_.B, block_.chunk, block_.group, states);
  fetch_C();
  if (finishes()) {
    fetch_steps_of(0);
    if (count_ > 1) fetch_steps_of(1);
  }
  device::commit_copies();
  states_.clear();
  place_blocks();
  device::wait_for_copies<0>();
  __syncthreads();
  make_scores();
  weigh(0);
  __syncthreads();
  fetch_unit(0);
  device::commit_copies();
  for (int i = 0; i < count_; ++i) {
    device::wait_for_copies<0>();
    __syncthreads();
    if (i + 1 < count_) fetch_unit(i + 1);
    if (i > 0) finish(i - 1);
    __syncwarp();
    if (finishes() && i + 2 < count_) fetch_steps_of(i + 2);
    device::commit_copies();
    handle(i);
  }
  __syncthreads();
  fetch_C();
  device::commit_copies();
  finish(count_ - 1);
  put_dscores();
  device::wait_for_copies<0>();
  __syncthreads();
  if (warp_ < G::States::kWarps) {
    states_.add_product(device::transposed(shared_.mix, S::kTokenRow), row_,
                        device::factor(shared_.ends.C, S::kStateRow), column_, row_, Q);
  }
  if (warp_ < G::States::kWarps) {
    store_group_gradient<S>(states_, p_, plan_, access_, block_.chunk, block_.group, block_.share,
                            0, row_, column_);
  }
  store_dscores();
}

template <class S>
__device__ void InputTile<S>::handle(int i) {
  const Stage& stage = shared_.units.stages[i % 2];
  forget_derived();
  for_blocks([&](int b) {
    if (mix_row_[b] == mix_column_[b]) {
      gradients_of_block<true>(stage, i, b);
    } else {
      gradients_of_block<false>(stage, i, b);
    }
  });
  gradient_of_B(stage, i);
  WidthTile dx;
  dx_through_state(dx, stage, i);
  __syncthreads();
  if (warp_ < G::Width::kWarps && p_.dx) {
    dx.add_product(device::transposed(shared_.mix, S::kTokenRow), width_row_,
                   device::factor(stage.g, S::kWidthRow), width_column_, width_row_, Q);
    T* const to = shared_.dx + width_row_ * S::kWidthRow + width_column_;
    dx.for_each_pair([&](float a, float b, int t, int p) {
      const float pair[] = {a, b};
      device::store_packed<T, 2>(to + t * S::kWidthRow + p, pair);
    });
  }
  if (i + 1 < count_) weigh(i + 1);
}

template <class S>
inline constexpr int kInputThreads = S::kInputWarps* device::kWarp;

template <class S>
__global__ void __launch_bounds__(kInputThreads<S>)
    backward_inputs_kernel(const __grid_constant__ BackwardParams p,
                           const __grid_constant__ CudaBackwardPlan plan,
                           const __grid_constant__ BackwardAccess access) {
  extern __shared__ __align__(16) unsigned char memory[];
  const GradientBlock<S> block(p, plan);
  if (block.chunk.tokens == 0) {
    block.clear(plan.dA, plan.units(p.heads), 1);
    if (p.dD) block.clear(plan.dD, plan.units(p.heads), plan.skip_columns);
    return;
  }
  InputTile<S> tile(*reinterpret_cast<InputShared<S>*>(memory), p, plan, access, block);
  tile.run();
}

}  // namespace hax::ssd
