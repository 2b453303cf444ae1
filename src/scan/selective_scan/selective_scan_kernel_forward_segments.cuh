// Sequences in segments that run side by side, for few channels. Every segment is scanned from a state of zeros; then
// the state that it should have started from, decaying over its tokens, is added to their outputs.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_forward_tensor.cuh"

namespace hax::selective_scan {

// Tokens [first, first + tokens) of a sequence as far as there are such.
__device__ inline Sequences::Range part_of(const Sequences::Range& all, int64_t first,
                                           int64_t tokens) {
  return {all.row, all.begin + first, max(int64_t{0}, min(tokens, all.length - first))};
}

// A block for every (segment, block of channels), channels fastest.
template <class Scan>
__global__ void __launch_bounds__(Scan::kWarps* device::kWarp, 16 / Scan::kWarps)
    segment_kernel(const __grid_constant__ ForwardParams p,
                   const __grid_constant__ ForwardLayout layout) {
  using S = typename Scan::S;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* const shared = reinterpret_cast<typename Scan::Shared*>(memory);
  const int warp = settled(static_cast<int>(threadIdx.x / device::kWarp));
  const BlockChannels block(p, blockIdx.x % layout.blocks, Scan::kWarps * S::kWidth);
  if (warp * S::kWidth >= block.count) return;
  const unsigned place = blockIdx.x / layout.blocks;
  const int64_t sequence = place / layout.segments, segment = place % layout.segments;
  const int64_t tokens = layout.walk * layout.walks;
  const Sequences::Range range = part_of(p.sequences.range(sequence), segment * tokens, tokens);
  Scan scan(p, layout, block, range, static_cast<unsigned>(warp), 0, shared[warp]);
  scan.set_place(place);
  Lane<S>& lane = scan.lane;
  if (segment == 0) {
    lane.load(lane.h, p.initial_state, p.initial_state.offset(sequence), block, p.states);
  } else {
    Scan::for_each_state([&](int m, int k) { lane.h[m][k] = 0.0f; });
  }
  scan.run();
  lane.store(lane.h, layout.made, layout.made.offset(place), block, p.states);
  scan.store_elapsed(static_cast<int>(layout.walks) - 1);
}

// The states carried into the segments, a thread for every (sequence, channel, state).
static __global__ void __launch_bounds__(128)
    carry_kernel(const __grid_constant__ ForwardParams p,
                 const __grid_constant__ ForwardLayout layout) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t n = index % p.states, channel = index / p.states % p.channels;
  const int64_t sequence = index / p.states / p.channels;
  if (sequence >= p.batch) return;
  const float rate = *p.A.at<float>(channel, n) * device::kLog2E;
  const int64_t first = sequence * layout.segments;
  constexpr int kAhead = 8;
  float h = 0.0f;
  for (unsigned i = 0; i < layout.segments; i += kAhead) {
    float made[kAhead], elapsed[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j >= layout.segments) continue;
      made[j] = *layout.made.at<float>(first + i + j, channel, n);
      elapsed[j] = *layout.elapsed.at<float>(first + i + j, layout.walks - 1, channel);
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j >= layout.segments) continue;
      *layout.carried.at<float>(first + i + j, channel, n) = h;
      // The first segment has started from the initial state. What is 0 stays so whatever it is multiplied with.
      h = h == 0.0f ? made[j] : device::exp2_approx(elapsed[j] * rate) * h + made[j];
    }
  }
  if (p.final_state)
    device::store_any(p.final_state, p.final_state.offset(sequence, channel, n), h);
}

// Adds what the state carried into a segment makes of its outputs: a block for every (segment, walk, block of
// channels), channels fastest.
template <class Scan>
__global__ void __launch_bounds__(Scan::kWarps* device::kWarp, 16 / Scan::kWarps)
    carried_kernel(const __grid_constant__ ForwardParams p,
                   const __grid_constant__ ForwardLayout layout) {
  using S = typename Scan::S;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* const shared = reinterpret_cast<typename Scan::Shared*>(memory);
  const int warp = settled(static_cast<int>(threadIdx.x / device::kWarp));
  const BlockChannels block(p, blockIdx.x % layout.blocks, Scan::kWarps * S::kWidth);
  if (warp * S::kWidth >= block.count) return;
  const unsigned place = blockIdx.x / layout.blocks / layout.walks;
  const unsigned walk = blockIdx.x / layout.blocks % layout.walks;
  const int64_t sequence = place / layout.segments, segment = place % layout.segments;
  if (segment == 0) return;
  const Sequences::Range range = part_of(
      p.sequences.range(sequence), (segment * layout.walks + walk) * layout.walk, layout.walk);
  if (range.length == 0) return;
  Scan scan(p, layout, block, range, static_cast<unsigned>(warp), 0, shared[warp]);
  Lane<S>& lane = scan.lane;
  typename Scan::States made;
  lane.load(made, layout.made, layout.made.offset(place), block, p.states);
  lane.load(lane.h, layout.carried, layout.carried.offset(place), block, p.states);
  scan.count_from(lane.h, made);
  if (walk > 0) {
    float elapsed[S::kChannels];
#pragma unroll
    for (int m = 0; m < S::kChannels; ++m) {
      elapsed[m] = *layout.elapsed.at<float>(place, walk - 1, scan.channel + m);
    }
    Scan::for_each_state([&](int m, int k) {
      float& h = lane.h[m][k];
      h = h == 0.0f ? h : decay<S>(elapsed[m] * lane.rate[m][k]) * h;
    });
  }
  scan.run();
}

}  // namespace hax::selective_scan
