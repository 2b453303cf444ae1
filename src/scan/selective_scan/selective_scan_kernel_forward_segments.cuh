// Sequences in segments that run side by side, for few channels. Every segment is scanned from a state of zeros; then
// the state that it should have started from, decaying over its tokens, is added to their outputs.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_forward_carried.cuh"
#include "scan/selective_scan/selective_scan_kernel_forward_tensor.cuh"

namespace hax::selective_scan {

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
  const Sequences::Range range =
      part_of(p.sequences.range(sequence), segment * layout.segment, layout.segment);
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

inline constexpr int kCarryStates = 32, kCarryRuns = 32;  // of a block

// The states carried into the segments. A thread for every (sequence, channel, state) and run of segments; what the runs
// make of a state of zeros is handed on in shared memory.
static __global__ void __launch_bounds__(kCarryStates* kCarryRuns)
    carry_kernel(const __grid_constant__ ForwardParams p,
                 const __grid_constant__ ForwardLayout layout) {
  __shared__ float made[kCarryRuns][kCarryStates], elapsed[kCarryRuns][kCarryStates];
  const int64_t index = int64_t{blockIdx.x} * kCarryStates + threadIdx.x;
  const int64_t n = index % p.states, channel = index / p.states % p.channels;
  const int64_t sequence = index / p.states / p.channels;
  const bool used = sequence < p.batch;
  const float rate = used ? *p.A.at<float>(channel, n) * device::kLog2E : 0.0f;
  // What is 0 stays so whatever it is multiplied with.
  const auto after = [&](float h, float time, float more) {
    return h == 0.0f ? more : device::exp2_approx(time * rate) * h + more;
  };
  const unsigned run = (layout.segments + kCarryRuns - 1) / kCarryRuns;
  const unsigned first = threadIdx.y * run, last = min(first + run, layout.segments);
  const auto walk = [&](float h, auto&& f) {
#pragma unroll 4
    for (unsigned i = first; used && i < last; ++i) {
      const int64_t place = sequence * layout.segments + i;
      f(place, h);
      h = after(h, *layout.elapsed.at<float>(place, layout.walks - 1, channel),
                *layout.made.at<float>(place, channel, n));
    }
    return h;
  };
  float time = 0.0f;
  made[threadIdx.y][threadIdx.x] = walk(0.0f, [&](int64_t place, float) {
    time += *layout.elapsed.at<float>(place, layout.walks - 1, channel);
  });
  elapsed[threadIdx.y][threadIdx.x] = time;
  __syncthreads();
  float h = 0.0f;
  for (unsigned i = 0; i < threadIdx.y; ++i) {
    h = after(h, elapsed[i][threadIdx.x], made[i][threadIdx.x]);
  }
  h = walk(h, [&](int64_t place, float before) {
    *layout.carried.at<float>(place, channel, n) = before;
  });
  if (used && p.final_state && threadIdx.y == kCarryRuns - 1) {
    device::store_any(p.final_state, p.final_state.offset(sequence, channel, n), h);
  }
}

}  // namespace hax::selective_scan
