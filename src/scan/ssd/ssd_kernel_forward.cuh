// Forward of ssd for 16-bit activations: which thread block takes what, and the kernels.
#pragma once

#include "device/flag.cuh"
#include "scan/ssd/ssd_kernel_forward_mix.cuh"
#include "scan/ssd/ssd_kernel_forward_outputs.cuh"
#include "scan/ssd/ssd_kernel_forward_products.cuh"
#include "scan/ssd/ssd_kernel_forward_segments.cuh"
#include "scan/ssd/ssd_kernel_forward_walk.cuh"

namespace hax::ssd {

// State of a piece that does not start its column: handed over by the slot before, or made of what the column's segments
// before it add.
template <class Work>
__device__ void load_piece_state(Work& work, const CudaForwardPlan& plan, const Share& share,
                                 int units) {
  const int warps = blockDim.x / device::kWarp, warp = threadIdx.x / device::kWarp;
  if (plan.ready) {
    if (threadIdx.x == 0) device::wait_for_flag(&plan.ready[(share.index - 1) * plan.units]);
    __syncthreads();
    work.clear();
    work.load_workspace(plan.states, share.index - 1, warps, warp, 0.0f);
    return;
  }
  const int unit = warp / kUnitWarps;
  for_each_segment_before(plan, share, units, [&](int64_t before) {
    work.load_workspace(plan.states, before, warps, warp,
                        __ldcg(&plan.decays[before * plan.units + unit]));
  });
}

template <class Work>
__device__ void run_piece(Work& work, const ForwardParams& p, const CudaForwardPlan& plan,
                          const Share& share, const Piece& piece, int64_t blocks) {
  const int64_t s = piece.column / blocks;
  const UnitBlock block(p, piece.column % blocks, plan);
  const Sequences::Range range = p.sequences.range(s);
  work.enter(block);
  work.load_state(p, p.initial_state, p.initial_state.offset(s), 1);
  if (piece.begin > 0) load_piece_state(work, plan, share, block.count);
  work.run(range, piece.begin * kChunk, share.end_token(piece, range.length));
  if (piece.end == share.chunks) {
    if (p.final_state) work.store_state(p, p.final_state, p.final_state.offset(s), 1);
  } else if (plan.ready) {
    const int warps = blockDim.x / device::kWarp, warp = threadIdx.x / device::kWarp;
    work.store_workspace(plan.states, share.index, warps, warp);
    __syncthreads();
    if (threadIdx.x == 0) device::set_flag(&plan.ready[share.index * plan.units]);
  }
}

// Whether ssd_kernel_warpgroup.cuh has the better kernel for what this code is being compiled for.
template <int N>
inline constexpr bool kByWarpgroups = device::kWarpgroupProducts&& N <= kMostWarpgroupStates;

// Forward with y.
template <class T, int N>
__global__ void __launch_bounds__(kForwardThreads, 1)
    forward_kernel(const __grid_constant__ ForwardParams p,
                   const __grid_constant__ CudaForwardPlan plan,
                   const __grid_constant__ ForwardAccess access, Stages stages, bool split,
                   int64_t blocks) {
  if constexpr (!kByWarpgroups<N>) {
    extern __shared__ __align__(1024) char memory[];
    ForwardBlock<T, N, true> work(p, plan, access, stages, split, memory);
    const Share share(p, plan, blocks, take_share(plan));
    share.for_each_piece(
        [&](const Piece& piece) { run_piece(work, p, plan, share, piece, blocks); });
  }
}

// What a segment adds to the state.
template <class T, int N>
__global__ void __launch_bounds__(kForwardThreads, 1)
    segments_kernel(const __grid_constant__ ForwardParams p,
                    const __grid_constant__ CudaForwardPlan plan,
                    const __grid_constant__ ForwardAccess access, Stages stages, bool split,
                    int64_t blocks) {
  if constexpr (!kByWarpgroups<N>) {
    extern __shared__ __align__(1024) char memory[];
    ForwardBlock<T, N, false> work(p, plan, access, stages, split, memory);
    const Piece whole = Share(p, plan, blocks, blockIdx.x).last();
    const UnitBlock block(p, whole.column % blocks, plan);
    const Sequences::Range range = p.sequences.range(whole.column / blocks);
    const Piece piece = remembered(p, block, plan.rows, range, whole);
    work.enter(block);
    work.clear();
    work.run(range, piece.begin * kChunk, piece.end * kChunk);
    const int warps = blockDim.x / device::kWarp, warp = threadIdx.x / device::kWarp;
    work.store_workspace(plan.states, blockIdx.x, warps, warp);
    const int threads = kUnitWarps * device::kWarp;  // of a unit
    if (threadIdx.x % threads == 0) {
      plan.decays[int64_t{blockIdx.x} * plan.units + threadIdx.x / threads] = work.piece_decay;
    }
  }
}

}  // namespace hax::ssd
