// Forward of ssd for 16-bit activations and few states: a thread block takes a span of chunks at once, a warp each for
// every unit of work, and the state passes through them in between.
#pragma once

#include "device/flag.cuh"
#include "scan/ssd/ssd_kernel_forward_segments.cuh"
#include "scan/ssd/ssd_kernel_span_outputs.cuh"
#include "scan/ssd/ssd_kernel_span_states.cuh"

namespace hax::ssd {

// State of a piece that does not start its column: handed over by the slot before, or made of what the column's segments
// before it add.
template <class Block>
__device__ void take_over_span(Block& work, const CudaForwardPlan& plan, const Share& share,
                               int units) {
  if (plan.ready) {
    if (threadIdx.x == 0) device::wait_for_flag(&plan.ready[(share.index - 1) * plan.units]);
    __syncthreads();
    work.add_workspace(share.index - 1, true);
    return;
  }
  for_each_segment_before(plan, share, units,
                          [&](int64_t before) { work.add_workspace(before, false); });
}

// The states alone: what a segment adds to the state.
template <class T, int Pairs, Pass kPass>
__global__ void __launch_bounds__(span_threads(16 * Pairs), 2)
    span_kernel(const __grid_constant__ ForwardParams p,
                const __grid_constant__ CudaForwardPlan plan,
                const __grid_constant__ ForwardAccess access, bool split, int64_t blocks) {
  constexpr bool kOutput = kPass != Pass::states;
  extern __shared__ __align__(128) char memory[];
  SpanBlock<T, Pairs, kPass> work(p, plan, access, split, memory);
  const Share share(p, plan, blocks, take_share(plan));
  const auto run = [&](const Piece& piece) {
    const int64_t s = piece.column / blocks;
    const Sequences::Range range = p.sequences.range(s);
    const UnitBlock block(p, piece.column % blocks, plan);
    work.enter(block);
    work.load_carry(kOutput ? p.initial_state : Tensor{}, p.initial_state.offset(s));
    if (kOutput && piece.begin > 0) take_over_span(work, plan, share, block.count);
    const int64_t begin =
        kOutput ? piece.begin : remembered(p, block, plan.rows, range, piece).begin;
    work.run(range, begin * kChunk, share.end_token(piece, range.length));
    if (kOutput && piece.end == share.chunks) {
      if (p.final_state) work.store_carry(p.final_state, p.final_state.offset(s));
    } else if (!kOutput || plan.ready) {
      work.store_workspace(share.index);
      __syncthreads();
      if (plan.ready && threadIdx.x == 0) {
        device::set_flag(&plan.ready[share.index * plan.units]);
      }
    }
  };
  share.for_each_piece(run);
}

}  // namespace hax::ssd
