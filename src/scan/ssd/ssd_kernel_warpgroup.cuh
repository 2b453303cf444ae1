// Forward of ssd for 16-bit activations by warpgroups, for GPUs that have their products: a warpgroup for every unit of
// work, and one that loads.
#pragma once

#include "device/early_start.cuh"
#include "device/flag.cuh"
#include "scan/ssd/ssd_kernel_forward_segments.cuh"
#include "scan/ssd/ssd_kernel_warpgroup_loader.cuh"
#include "scan/ssd/ssd_kernel_warpgroup_unit.cuh"

namespace hax::ssd {

// State of a piece that does not start its column: handed over by the slot before, or made of what the column's segments
// before it add.
template <class Unit>
__device__ void take_over_state(Unit& work, const CudaForwardPlan& plan, const Share& share,
                                int units) {
  const int warps = kWarpgroupUnits * 4, warp = threadIdx.x / device::kWarp, unit = warp / 4;
  if (plan.ready) {
    if (threadIdx.x % kWarpgroup == 0) {
      device::wait_for_flag(&plan.ready[(share.index - 1) * plan.units + unit]);
    }
    work.meet();
    work.clear();
    work.load_workspace(plan.states, share.index - 1, warps, warp, 0.0f);
    return;
  }
  device::wait_for_previous();
  for_each_segment_before(plan, share, units, [&](int64_t before) {
    work.load_workspace(plan.states, before, warps, warp,
                        __ldcg(&plan.decays[before * plan.units + unit]));
  });
}

// The states alone: what a segment adds to the state.
template <class T, int N, Pass kPass>
__global__ void __launch_bounds__(kWarpgroupThreads, 1)
    warpgroup_kernel(const __grid_constant__ ForwardParams p,
                     const __grid_constant__ CudaForwardPlan plan,
                     const __grid_constant__ ForwardAccess access, bool split, int64_t blocks) {
  if constexpr (device::kWarpgroupProducts) {
    constexpr bool kOutput = kPass != Pass::states;
    extern __shared__ __align__(1024) char shared[];
    const WarpgroupMemory<N, kOutput> memory(shared);
    memory.start();
    const Share share(p, plan, blocks, take_share(plan));
    Piece own = share.last();
    if (!kOutput) {
      device::start_next();
      own = remembered(p, UnitBlock(p, own.column % blocks, plan), plan.rows,
                       p.sequences.range(own.column / blocks), own);
    }
    const auto for_each_piece = [&](auto&& f) { kOutput ? share.for_each_piece(f) : f(own); };
    if (threadIdx.x >= kWarpgroupUnits * kWarpgroup) {
      device::release_registers<kLoaderRegisters>();
      ChunkLoader<T, N, kPass> loader(p, access, memory);
      for_each_piece([&](const Piece& piece) {
        const Sequences::Range range = p.sequences.range(piece.column / blocks);
        loader.run(UnitBlock(p, piece.column % blocks, plan), range, piece.begin * kChunk,
                   share.end_token(piece, range.length));
      });
      loader.finish();
    } else {
      device::claim_registers<kUnitRegisters>();
      WarpgroupUnit<T, N, kPass> work(p, access, split, memory);
      const int warps = kWarpgroupUnits * 4, warp = threadIdx.x / device::kWarp, unit = warp / 4;
      for_each_piece([&](const Piece& piece) {
        const int64_t s = piece.column / blocks;
        const Sequences::Range range = p.sequences.range(s);
        const UnitBlock block(p, piece.column % blocks, plan);
        work.enter(block);
        if (kOutput) {
          work.load_state(p, p.initial_state, p.initial_state.offset(s), 1);
          if (piece.begin > 0) take_over_state(work, plan, share, block.count);
        } else {
          work.clear();
        }
        work.run(range, piece.begin * kChunk, share.end_token(piece, range.length));
        if (!kOutput) {
          work.store_workspace(plan.states, blockIdx.x, warps, warp);
          if (threadIdx.x % kWarpgroup == 0) {
            plan.decays[int64_t{blockIdx.x} * plan.units + unit] = work.piece_decay;
          }
        } else if (piece.end == share.chunks) {
          if (p.final_state) work.store_state(p, p.final_state, p.final_state.offset(s), 1);
        } else if (plan.ready) {
          work.store_workspace(plan.states, share.index, warps, warp);
          work.meet();
          if (threadIdx.x % kWarpgroup == 0) {
            device::set_flag(&plan.ready[share.index * plan.units + unit]);
          }
        }
      });
    }
  }
}

}  // namespace hax::ssd
