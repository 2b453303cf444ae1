// What a unit gives to dt, A and D, once the sums by token are there, by one warp.
#pragma once

#include "scan/ssd/ssd_kernel_backward_chunk_memory.cuh"

namespace hax::ssd {

template <class S>
class ChunkFinish {
  static constexpr int K = LaneTokens<S>::kCount;
  static_assert(K == 4);
  using Shared = ChunkShared<S>;

 public:
  // Reads all that it needs of the shared memory.
  __device__ ChunkFinish(const Shared& shared, int i, int lane) {
    const auto& steps = shared.steps[i % 2];
    const auto& sums = shared.sums;
    float column[K] = {}, row[K], own[K], from_h[K], from_dh[K];
    for (int band = 0; band < Shared::kBands; ++band) {
      float part[K];
      load(part, sums.columns[band], lane);
#pragma unroll
      for (int k = 0; k < K; ++k) column[k] += part[k];
    }
    load(dt_, steps.dt, lane);
    load(row, sums.rows, lane);
    load(own, sums.own, lane);
    load(from_h, sums.from_h, lane);
    load(from_dh, sums.from_dh, lane);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      later_[k] = row[k] - column[k] + from_h[k];
      // Without dt there is nothing to divide, and a gradient of dt that its softplus makes 0.
      direct_[k] = (dt_[k] > 0.0f ? __fdividef(column[k], dt_[k]) : 0.0f) + own[k] + from_dh[k];
      earlier_[k] = dt_[k] * from_dh[k];
    }
    const float* const through = shared.through[i % 2];
    through_ = (through[0] + through[1] + through[2] + through[3]) *
               device::exp2_approx(steps.sum[S::kTokens - 1]);
    skip_ = sums.skip[0] + sums.skip[1] + sums.skip[2] + sums.skip[3];
    A_ = steps.A;
  }

  __device__ void store(const ChunkContext<S>& context, const Unit& unit, int lane) {
    const CudaBackwardPlan& plan = context.plan;
    sum_later(later_, lane);
    sum_earlier(earlier_, lane);
#pragma unroll
    for (int k = 0; k < K; ++k) later_[k] += earlier_[k] + through_;
    store_step_gradients<S>(context.p, plan, 0, context.chunk().place, unit, later_, direct_, dt_,
                            A_, lane);
    if (!context.p.dD || plan.skip_columns > 1 || lane != 0) return;
    plan.dD[context.chunk().place * plan.units(context.p.heads) + unit.index] = skip_;
  }

 private:
  __device__ static void load(float (&to)[K], const float* from, int lane) {
    const float4 four = *reinterpret_cast<const float4*>(from + lane * K);
    to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
  }

  // By token, later_ and earlier_ to be summed.
  float dt_[K], later_[K], earlier_[K], direct_[K];
  float through_, skip_, A_;
};

}  // namespace hax::ssd
