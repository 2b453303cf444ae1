// Gradients of a chunk of 128 tokens by warpgroups, unit after unit, for heads of up to 64 and up to 128 states. With earlier
// tokens s and later ones t, dh the gradient of the state behind the chunk and g that of y before the gate:
//   mix = (B C^T) decay(t, s) dt_s,  dx_s = mix g + decay(end, s) dt_s B dh^T + D g_s,  dscores = x g^T decay(t, s) dt_s
//   dB += dscores C + (dt decay(end, s) x) dh,  dC += dscores^T B + (decay(t, start) g) h
// Four warpgroups hand on tiles through barriers in shared memory: one makes mix and dscores, one dx, two sum dB and dC.
#pragma once

#include "scan/ssd/ssd_kernel_backward_chunk_group.cuh"
#include "scan/ssd/ssd_kernel_backward_chunk_pairs.cuh"
#include "scan/ssd/ssd_kernel_backward_chunk_tokens.cuh"

namespace hax::ssd {

// Registers of a thread, 128 on average.
inline constexpr int kPairsRegisters = 96, kTokensRegisters = 80, kGroupRegisters = 168;

// B and C, which all units share, by all threads.
template <class S>
__device__ void fetch_group(const ChunkContext<S>& context) {
  const Team<kChunkThreads> team{static_cast<int>(threadIdx.x)};
  const auto fetch_rows = [&](typename ChunkShared<S>::Rows& to, const Tensor& from, bool vectors) {
    const ChunkAt& chunk = context.chunk();
    fetch_panels(
        team, to,
        token_rows<typename S::T>(from, vectors, chunk.sequence.row, chunk.token(), chunk.tokens,
                                  context.block().group, 0, static_cast<int>(context.p.states)));
  };
  fetch_rows(context.shared.B, context.p.B, context.access.B);
  fetch_rows(context.shared.C, context.p.C, context.access.C);
  if (context.access.B && context.access.C) {
    return device::arrive_on_copies(context.shared.group_full);
  }
  device::commit_copies();
  device::wait_for_copies<0>();
  device::arrive(context.shared.group_full);
}

// Empty in code for GPUs without warpgroup products.
template <class S>
__global__ void __launch_bounds__(kChunkThreads, 1)
    backward_chunk_kernel(const __grid_constant__ BackwardParams p,
                          const __grid_constant__ CudaBackwardPlan plan,
                          const __grid_constant__ BackwardAccess access) {
  if constexpr (device::kWarpgroupProducts) {
    extern __shared__ __align__(1024) unsigned char memory[];
    auto& shared = *reinterpret_cast<ChunkShared<S>*>(memory);
    {
      const GradientBlock<S> block(p, plan);
      if (block.chunk.tokens == 0) {
        block.clear(plan.dA, plan.units(p.heads), 1);
        if (p.dD) block.clear(plan.dD, plan.units(p.heads), plan.skip_columns);
        return;
      }
      shared.start(block);
    }
    const ChunkContext<S> context{shared, p, plan, access};
    fetch_group(context);
    const int role = threadIdx.x / kWarpgroup;
    if (role == 0) {
      device::release_registers<kPairsRegisters>();
      ChunkPairs<S>(context).run();
    } else if (role == 1) {
      device::release_registers<kTokensRegisters>();
      ChunkTokens<S>(context).run();
    } else if (role == 2) {
      device::claim_registers<kGroupRegisters>();
      ChunkGroup<S, false>(context).run();
    } else {
      device::claim_registers<kGroupRegisters>();
      ChunkGroup<S, true>(context).run();
    }
  }
}

}  // namespace hax::ssd
