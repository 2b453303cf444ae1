// Forward of ssd for 16-bit activations and few states: a thread block takes a span of chunks at once, a warp each for
// every unit of work, and the state passes through them in between.
#pragma once

#include "device/flag.cuh"
#include "scan/ssd/ssd_kernel_forward_shares.cuh"
#include "scan/ssd/ssd_kernel_span_block.cuh"

namespace hax::ssd {

// State of a piece that does not start its column: handed over by the slot before, or made of what the column's pieces
// before it add.
template <class Block>
__device__ void take_over_span(Block& work, const CudaForwardPlan& plan, int64_t slot,
                               int64_t first_slot) {
  if (plan.ready) {
    if (threadIdx.x == 0) device::wait_for_flag(&plan.ready[(slot - 1) * plan.units]);
    __syncthreads();
    work.add_workspace(slot - 1, true);
    return;
  }
  for (int64_t before = first_slot * kParts; before < slot * kParts; ++before) {
    work.add_workspace(before, false);
  }
}

// The states alone: what the last piece of every slot adds to the state, where the next slot goes on with its column.
template <class T, int Pairs, Pass kPass>
__global__ void __launch_bounds__(span_threads(16 * Pairs), 2)
    span_kernel(const __grid_constant__ ForwardParams p,
                const __grid_constant__ CudaForwardPlan plan,
                const __grid_constant__ ForwardAccess access, bool split, int64_t blocks) {
  constexpr bool kOutput = kPass != Pass::states;
  extern __shared__ __align__(128) char memory[];
  SpanBlock<T, Pairs, kPass> work(p, plan, access, split, memory);
  const Slot slot(p, plan, blocks, kOutput ? take_slot(plan) : blockIdx.x / kParts);
  const auto run = [&](const Piece& piece) {
    const int64_t s = piece.column / blocks;
    const Sequences::Range range = p.sequences.range(s);
    work.enter(UnitBlock(p, piece.column % blocks, plan));
    work.load_carry(kOutput ? p.initial_state : Tensor{}, p.initial_state.offset(s));
    if (kOutput && piece.begin > 0) {
      take_over_span(work, plan, slot.index, piece.column * slot.chunks / plan.share);
    }
    work.run(range, piece.begin * kChunk, slot.end_token(piece, range.length));
    if (kOutput && piece.end == slot.chunks) {
      if (p.final_state) work.store_carry(p.final_state, p.final_state.offset(s));
    } else if (!kOutput || plan.ready) {
      work.store_workspace(kOutput ? slot.index : blockIdx.x);
      __syncthreads();
      if (plan.ready && threadIdx.x == 0) {
        device::set_flag(&plan.ready[slot.index * plan.units]);
      }
    }
  };
  if (kOutput) {
    slot.for_each_piece(run);
  } else {
    const Piece piece = slot.last();
    if (piece.end != slot.chunks) run(piece.part(blockIdx.x % kParts));
  }
}

}  // namespace hax::ssd
