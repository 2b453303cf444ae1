// Step of the selective scan: a few tokens of each sequence, states in a pool.
#pragma once

#include "scan/selective_scan/selective_scan_kernel.cuh"

namespace hax::selective_scan {

// A block for every (sequence, block of channels), channels fastest; Shape::kChannels is 1. Inputs are read
// where they are needed: they are few beside the state.
template <class S>
__global__ void __launch_bounds__(S::kThreads)
    step_kernel(const __grid_constant__ StepParams p, int64_t blocks) {
  using T = typename S::T;
  static_assert(S::kChannels == 1);
  const int64_t b = blockIdx.x / blocks;
  const int64_t source = p.slots.source(b);
  if (source < 0) return;
  const BlockChannels block(p, blockIdx.x % blocks, S::kWidth);
  Lane<S> lane(p, block);
  lane.load(lane.h, p.state, p.state.offset(source), block, p.states);
  const bool mine = lane.channel < block.count;
  const int64_t channel = block.first + (mine ? lane.channel : 0);
  const float bias = p.delta_bias ? *p.delta_bias.at<float>(channel) : 0.0f;
  const float skip = p.D ? *p.D.at<float>(channel) : 0.0f;
  for (int64_t t = 0; t < p.tokens; ++t) {
    const float u = device::to_float(*p.u.at<T>(b, t, channel));
    const float dt =
        step_size<S>(device::to_float(*p.delta.at<T>(b, t, channel)) + bias, p.softplus);
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < S::kStates; ++k) {
      const int64_t n = lane.part * S::kStates + k;
      if (n >= p.states) continue;
      const float B = device::to_float(*p.B.at<T>(b, t, block.group, n));
      const float C = device::to_float(*p.C.at<T>(b, t, block.group, n));
      const float d = decay<S>(dt * lane.rate[0][k]);
      lane.h[0][k] = decayed<S>(d, lane.h[0][k], dt * u * B);
      sum += C * lane.h[0][k];
    }
    float y = device::warp_sum<S::kLanes>(sum) + skip * u;
    if (p.z) y *= device::silu(device::to_float(*p.z.at<T>(b, t, channel)));
    if (mine && lane.part == 0) *p.y.at<T>(b, t, channel) = device::from_float<T>(y);
    const int64_t slot = p.slots.destination(b, t, p.tokens);
    if (slot >= 0) lane.store(lane.h, p.state, p.state.offset(slot), block, p.states);
  }
}

}  // namespace hax::selective_scan
