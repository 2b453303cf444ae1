// Forward of ssd for 16-bit activations: which thread block takes what, and the kernels.
#pragma once

#include "device/flag.cuh"
#include "scan/ssd/ssd_kernel_forward_mix.cuh"
#include "scan/ssd/ssd_kernel_forward_outputs.cuh"
#include "scan/ssd/ssd_kernel_forward_products.cuh"
#include "scan/ssd/ssd_kernel_forward_walk.cuh"

namespace hax::ssd {

// State of a piece that does not start its column: handed over by the slot before, or made of what the column's pieces
// before it add.
template <class Work>
__device__ void load_piece_state(Work& work, const CudaForwardPlan& plan, int64_t slot,
                                 int64_t first_slot) {
  const int warps = blockDim.x / device::kWarp, warp = threadIdx.x / device::kWarp;
  if (plan.ready) {
    if (threadIdx.x == 0) device::wait_for_flag(&plan.ready[(slot - 1) * plan.units]);
    __syncthreads();
    work.clear();
    work.load_workspace(plan.states, slot - 1, warps, warp, 0.0f);
    return;
  }
  const int unit = warp / kUnitWarps;
  for (int64_t before = first_slot * kParts; before < slot * kParts; ++before) {
    work.load_workspace(plan.states, before, warps, warp, plan.decays[before * plan.units + unit]);
  }
}

template <class Work>
__device__ void run_piece(Work& work, const ForwardParams& p, const CudaForwardPlan& plan,
                          const Slot& slot, const Piece& piece, int64_t blocks) {
  const int64_t s = piece.column / blocks;
  const UnitBlock block(p, piece.column % blocks, plan);
  const Sequences::Range range = p.sequences.range(s);
  work.enter(block);
  work.load_state(p, p.initial_state, p.initial_state.offset(s), 1);
  if (piece.begin > 0) {
    load_piece_state(work, plan, slot.index, piece.column * slot.chunks / plan.share);
  }
  work.run(range, piece.begin * kChunk, slot.end_token(piece, range.length));
  if (piece.end == slot.chunks) {
    if (p.final_state) work.store_state(p, p.final_state, p.final_state.offset(s), 1);
  } else if (plan.ready) {
    const int warps = blockDim.x / device::kWarp, warp = threadIdx.x / device::kWarp;
    work.store_workspace(plan.states, slot.index, warps, warp);
    __syncthreads();
    if (threadIdx.x == 0) device::set_flag(&plan.ready[slot.index * plan.units]);
  }
}

// Whether ssd_kernel_warpgroup.cuh has the better kernel for what this code is being compiled for.
template <int N>
inline constexpr bool kByWarpgroups = device::kWarpgroupProducts&& N <= kMostWarpgroupStates;

// Forward with y. Without slots a block for every column, else one for every slot.
template <class T, int N>
__global__ void __launch_bounds__(kForwardThreads, 1)
    forward_kernel(const __grid_constant__ ForwardParams p,
                   const __grid_constant__ CudaForwardPlan plan,
                   const __grid_constant__ ForwardAccess access, Stages stages, bool split,
                   int64_t blocks) {
  if constexpr (!kByWarpgroups<N>) {
    extern __shared__ __align__(1024) char memory[];
    ForwardBlock<T, N, true> work(p, plan, access, stages, split, memory);
    const Slot slot(p, plan, blocks, take_slot(plan));
    slot.for_each_piece([&](const Piece& piece) { run_piece(work, p, plan, slot, piece, blocks); });
  }
}

// What the last piece of every slot adds to the state, where the next slot goes on with its column.
template <class T, int N>
__global__ void __launch_bounds__(kForwardThreads, 1)
    pieces_kernel(const __grid_constant__ ForwardParams p,
                  const __grid_constant__ CudaForwardPlan plan,
                  const __grid_constant__ ForwardAccess access, Stages stages, bool split,
                  int64_t blocks) {
  if constexpr (!kByWarpgroups<N>) {
    extern __shared__ __align__(1024) char memory[];
    ForwardBlock<T, N, false> work(p, plan, access, stages, split, memory);
    const Slot slot(p, plan, blocks, blockIdx.x / kParts);
    if (slot.last().end == slot.chunks) return;
    const Piece piece = slot.last().part(blockIdx.x % kParts);
    const UnitBlock block(p, piece.column % blocks, plan);
    work.enter(block);
    work.clear();
    work.run(p.sequences.range(piece.column / blocks), piece.begin * kChunk, piece.end * kChunk);
    const int warps = blockDim.x / device::kWarp, warp = threadIdx.x / device::kWarp;
    work.store_workspace(plan.states, blockIdx.x, warps, warp);
    const int threads = kUnitWarps * device::kWarp;  // of a unit
    if (threadIdx.x % threads == 0) {
      plan.decays[int64_t{blockIdx.x} * plan.units + threadIdx.x / threads] = work.piece_decay;
    }
  }
}

}  // namespace hax::ssd
