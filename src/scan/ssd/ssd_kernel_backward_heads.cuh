// All gradients of a chunk where heads are small (16-bit activations): a warp takes a unit and needs nobody else until
// dB and dC are summed over units. Everything is transposed, earlier tokens s by later ones t, so that what the pairs
// leave in registers is the left operand of the next product:
//   mix^T = (B C^T) decay(t, s),  dx_s = dt_s (mix^T g + decay(end, s) B dh^T) + D g,  dscores^T = x g^T decay(t, s) dt_s
// Then each warp takes 16 rows of dB and dC: x (weighted) dh and g (weighted) h over all units, and dscores' products once
// at the end.
#pragma once

#include "scan/ssd/ssd_kernel_backward_heads_finish.cuh"

namespace hax::ssd {

template <class S>
class HeadsTile {
  using T = typename S::T;
  using Shared = HeadsShared<S>;
  using Head = typename Shared::Head;
  using Grid = device::WarpGrid<S::kTokens, S::kStates, 1, kHeadWarps>;
  static constexpr int Q = S::kTokens, kBlocks = HeadBlocks<S>::kCount;
  static constexpr int kBlocksPerWarp = (kBlocks + kHeadWarps - 1) / kHeadWarps;

 public:
  __device__ HeadsTile(Shared& shared, const BackwardParams& p, const CudaBackwardPlan& plan,
                       const BackwardAccess& access, const GradientBlock<S>& block)
      : shared_(shared), p_(p), plan_(plan), access_(access), block_(block) {}

  __device__ void run() {
    const Team<kHeadThreads> team{static_cast<int>(threadIdx.x)};
    const int states = static_cast<int>(p_.states);
    fetch_group_rows<S>(team, shared_.B, p_.B, access_.B, block_.chunk, block_.group, states);
    fetch_group_rows<S>(team, shared_.C, p_.C, access_.C, block_.chunk, block_.group, states);
    dB_.clear();
    dC_.clear();
    const int count = static_cast<int>(block_.last - block_.first);
    for (int first = 0; first < count; first += kHeadWarps) {
      const int heads = at_most(kHeadWarps, count - first);
      if (first > 0) __syncthreads();
      UnitGradients<S> unit(shared_, p_, plan_, access_, block_.chunk, block_.first + first + warp_,
                            block_.group, warp_);
      if (warp_ < heads) unit.fetch();
      device::commit_copies();
      device::wait_for_copies<0>();
      __syncthreads();
      if (warp_ < heads) unit.run();
      __syncthreads();
      add(heads);
    }
    __syncthreads();
    put_dscores();
    __syncthreads();
    const int row = Grid::row(warp_);
    const auto dscores = shared_.dscores;
    dB_.add_product(device::factor(dscores, S::kTokenRow), row,
                    device::factor(shared_.C, S::kStateRow), 0, row, Q);
    dC_.add_product(device::transposed(dscores, S::kTokenRow), row,
                    device::factor(shared_.B, S::kStateRow), 0, 0, row + Grid::kRows);
    store_group_gradient<S>(dB_, p_, plan_, access_, block_.chunk, block_.group, block_.share, 0,
                            row, 0);
    store_group_gradient<S>(dC_, p_, plan_, access_, block_.chunk, block_.group, block_.share, 1,
                            row, 0);
  }

 private:
  // What some units give to dB and dC through the states, and to dscores.
  __device__ void add(int heads) {
    const int row = Grid::row(warp_), r = row + lane_ / 4;
    const auto weighted = [&](typename Grid::Tile& tile, const T* tokens, const T* states,
                              const T* weights) {
      tile.add_product(
          device::factor(tokens, S::kWidthRow), row, device::factor(states, S::kStateRow), 0, 0,
          S::kWidth, [&](device::LeftFragment<T>& a, int, int) {
            device::scale_rows<T>(a, weights[r].bits * 0x10001u, weights[r + 8].bits * 0x10001u);
          });
    };
    for (int i = 0; i < heads; ++i) {
      const Head& head = shared_.heads[i];
      weighted(dB_, head.x, head.dh, head.to_end);
      weighted(dC_, head.g, head.h, head.from_start);
#pragma unroll
      for (int b = 0; b < kBlocksPerWarp; ++b) {
        if (warp_ + b * kHeadWarps >= kBlocks) continue;
        const uint4 words = head.dscores[warp_ + b * kHeadWarps][lane_];
        const uint32_t pairs[] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float2 pair = device::unpack_pair<T>(pairs[k]);
          dscores_[b][2 * k] += pair.x;
          dscores_[b][2 * k + 1] += pair.y;
        }
      }
    }
  }

  __device__ void put_dscores() {
#pragma unroll
    for (int b = 0; b < kBlocksPerWarp; ++b) {
      const int index = warp_ + b * kHeadWarps;
      if (index >= kBlocks) continue;
      const int2 at = HeadBlocks<S>::place(index);
      T* const to = shared_.dscores + (at.x + lane_ / 4) * S::kTokenRow + at.y + lane_ % 4 * 2;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float pair[] = {dscores_[b][2 * k], dscores_[b][2 * k + 1]};
        device::store_packed<T, 2>(to + k % 2 * 8 * S::kTokenRow + k / 2 * 8, pair);
      }
    }
  }

  Shared& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const BackwardAccess& access_;
  const GradientBlock<S>& block_;
  const int lane_ = threadIdx.x % device::kWarp, warp_ = threadIdx.x / device::kWarp;
  typename Grid::Tile dB_, dC_;
  float dscores_[kBlocksPerWarp][8] = {};  // of blocks of pairs, as their fragments lie
};

template <class S>
__global__ void __launch_bounds__(kHeadThreads, 3)
    backward_heads_kernel(const __grid_constant__ BackwardParams p,
                          const __grid_constant__ CudaBackwardPlan plan,
                          const __grid_constant__ BackwardAccess access) {
  extern __shared__ __align__(16) unsigned char memory[];
  const GradientBlock<S> block(p, plan);
  if (block.chunk.tokens == 0) {
    block.clear(plan.dA, plan.units(p.heads), 1);
    block.clear(plan.dbias, p.heads, 1);
    if (p.dD) block.clear(plan.dD, plan.units(p.heads), plan.skip_columns);
    return;
  }
  HeadsTile<S> tile(*reinterpret_cast<HeadsShared<S>*>(memory), p, plan, access, block);
  tile.run();
}

}  // namespace hax::ssd
