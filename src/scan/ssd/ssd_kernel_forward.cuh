// Forward of ssd for 16-bit activations: which thread block takes what, and the kernels.
#pragma once

#include "device/flag.cuh"
#include "scan/ssd/ssd_kernel_forward_mix.cuh"
#include "scan/ssd/ssd_kernel_forward_outputs.cuh"
#include "scan/ssd/ssd_kernel_forward_products.cuh"
#include "scan/ssd/ssd_kernel_forward_walk.cuh"

namespace hax::ssd {

// Part of a column of chunks.
struct Piece {
  int64_t column;      // (sequence, block of units), units fastest
  int64_t begin, end;  // chunks
};

// The slots' pieces lie in a row, column after column.
struct Slot {
  int64_t chunks;      // of a column
  int64_t begin, end;  // chunks of all columns

  __device__ Slot(const ForwardParams& p, const CudaForwardPlan& plan, int64_t blocks)
      : chunks(plan.slots > 0 ? (p.length + kChunk - 1) / kChunk : 1) {
    const int64_t share = plan.slots > 0 ? plan.share : 1;
    begin = blockIdx.x * share;
    end = min(p.sequences.count() * blocks * chunks, begin + share);
  }
  __device__ Piece first() const {
    return {begin / chunks, begin % chunks, min(chunks, begin % chunks + (end - begin))};
  }
  __device__ Piece last() const {
    const int64_t column = (end - 1) / chunks;
    return {column, max(int64_t{0}, begin - column * chunks), end - column * chunks};
  }
};

// State of a piece that does not start its column: handed over by the slot before, or made of what the column's pieces
// before it add.
template <class Work>
__device__ void load_piece_state(Work& work, const CudaForwardPlan& plan, int64_t first_slot) {
  const int64_t slot = blockIdx.x;
  if (plan.ready) {
    if (threadIdx.x == 0) device::wait_for_flag(&plan.ready[slot - 1]);
    __syncthreads();
    work.load_state({}, 0, 1);
    work.load_workspace(slot - 1, 0.0f);
    return;
  }
  const int unit = threadIdx.x / (plan.warps * device::kWarp);
  for (int64_t before = first_slot; before < slot; ++before) {
    work.load_workspace(before, plan.decays[before * plan.units + unit]);
  }
}

template <class Work>
__device__ void run_piece(Work& work, const ForwardParams& p, const CudaForwardPlan& plan,
                          const Slot& slot, const Piece& piece, int64_t blocks) {
  const int64_t s = piece.column / blocks;
  const UnitBlock block(p, piece.column % blocks, plan.units);
  const Sequences::Range range = p.sequences.range(s);
  work.enter(block);
  work.load_state(p.initial_state, p.initial_state.offset(s), 1);
  if (piece.begin > 0) load_piece_state(work, plan, piece.column * slot.chunks / plan.share);
  const bool last = piece.end == slot.chunks;
  work.run(range, piece.begin * kChunk, last ? range.length : piece.end * kChunk);
  if (last) {
    if (p.final_state) work.store_state(p.final_state, p.final_state.offset(s), 1);
  } else if (plan.ready) {
    work.store_workspace(blockIdx.x);
    __syncthreads();
    if (threadIdx.x == 0) device::set_flag(&plan.ready[blockIdx.x]);
  }
}

// Forward with y. Without slots a block for every column, else one for every slot. A state that will be handed over is
// made first; blocks start in order, so the one that waits for it waits for a block that runs already.
template <class T, int N>
__global__ void __launch_bounds__(kForwardThreads<N>, 1)
    forward_kernel(const __grid_constant__ ForwardParams p,
                   const __grid_constant__ CudaForwardPlan plan,
                   const __grid_constant__ ForwardAccess access, Stages stages, bool split,
                   int64_t blocks) {
  extern __shared__ __align__(1024) char memory[];
  ForwardBlock<T, N, true> work(p, plan, access, stages, split, memory);
  Slot slot(p, plan, blocks);
  const bool ahead = plan.ready && slot.end % slot.chunks != 0;
  for (bool first = ahead; first || slot.begin < slot.end; first = false) {
    const Piece piece = first ? slot.last() : slot.first();
    run_piece(work, p, plan, slot, piece, blocks);
    (first ? slot.end : slot.begin) += (first ? -1 : 1) * (piece.end - piece.begin);
  }
}

// What the last piece of every slot adds to the state, where the next slot goes on with its column.
template <class T, int N>
__global__ void __launch_bounds__(kForwardThreads<N>, 1)
    pieces_kernel(const __grid_constant__ ForwardParams p,
                  const __grid_constant__ CudaForwardPlan plan,
                  const __grid_constant__ ForwardAccess access, Stages stages, bool split,
                  int64_t blocks) {
  extern __shared__ __align__(1024) char memory[];
  ForwardBlock<T, N, false> work(p, plan, access, stages, split, memory);
  const Slot slot(p, plan, blocks);
  const Piece piece = slot.last();
  if (piece.end == slot.chunks) return;
  const UnitBlock block(p, piece.column % blocks, plan.units);
  work.enter(block);
  work.load_state({}, 0, 1);
  work.run(p.sequences.range(piece.column / blocks), piece.begin * kChunk, piece.end * kChunk);
  work.store_workspace(blockIdx.x);
  const int threads = plan.warps * device::kWarp;  // of a unit
  if (threadIdx.x % threads == 0) {
    plan.decays[blockIdx.x * plan.units + threadIdx.x / threads] = work.piece_decay;
  }
}

}  // namespace hax::ssd
