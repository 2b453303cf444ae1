// Forward of the selective scan.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_forward_pairs.cuh"
#include "scan/selective_scan/selective_scan_kernel_forward_ring.cuh"
#include "scan/selective_scan/selective_scan_kernel_forward_segments.cuh"

namespace hax::selective_scan {

template <class Scan>
inline constexpr int kForwardThreads = Scan::kWarps* device::kWarp;

// A block for every (sequence, block of channels), channels fastest. Scan: RingScan, PairsScan or TensorScan.
template <class Scan>
__global__ void __launch_bounds__(kForwardThreads<Scan>, 512 / kForwardThreads<Scan>)
    forward_kernel(const __grid_constant__ ForwardParams p,
                   const __grid_constant__ ForwardLayout layout) {
  using S = typename Scan::S;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* const shared = reinterpret_cast<typename Scan::Shared*>(memory);
  const int ring = layout.ring;
  const int warp = settled(static_cast<int>(threadIdx.x / device::kWarp));
  const int turn = warp % ring, side = warp / ring;
  Scan::prepare_shared(shared[warp]);
  const BlockChannels block(p, blockIdx.x % layout.blocks, Scan::kWarps / ring * S::kWidth);
  if (side * S::kWidth >= block.count) return;
  const int64_t s = blockIdx.x / layout.blocks;
  const Sequences::Range range = p.sequences.range(s);
  Scan scan(p, layout, block, range, static_cast<unsigned>(side), turn, shared[warp]);
  Lane<S>& lane = scan.lane;
  if (turn == 0) lane.load(lane.h, p.initial_state, p.initial_state.offset(s), block, p.states);
  scan.run();
  const int64_t last = max(range.length - 1, int64_t{0}) / S::kTokens;
  if (p.final_state && turn == last % ring) {
    lane.store(lane.h, p.final_state, p.final_state.offset(s), block, p.states);
  }
}

}  // namespace hax::selective_scan
