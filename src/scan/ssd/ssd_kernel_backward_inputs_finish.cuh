// What is left of a unit in the gradients of inputs once all warps are done with it.
#pragma once

#include "scan/ssd/ssd_kernel_backward_inputs_tile.cuh"

namespace hax::ssd {

template <class S>
__device__ void InputTile<S>::store_dx(int i) {
  const Unit at = unit(i);
  const Team<G::kStorers * device::kWarp> team{static_cast<int>(threadIdx.x) -
                                               G::kFirstStorer * device::kWarp};
  if (team.thread < 0 || team.thread >= G::kStorers * device::kWarp) return;
  store_rows<Q, S::kWidth, S::kWidthRow>(
      team,
      OutputRows<T>{p_.dx.at<T>(row(), block_.chunk.token(), at.head, at.first), p_.dx.stride[1],
                    p_.dx.stride[3], block_.chunk.tokens, at.width, access_.dx},
      shared_.dx);
}

template <class S>
__device__ void InputTile<S>::finish_sums(int i) {
  constexpr int K = LaneTokens<S>::kCount;
  auto& sums = shared_.sums[i % 2];
  const float* const dt = shared_.steps[i % 3].values;
  float later[K] = {}, earlier[K], direct[K];
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int t = lane_ * K + k;
    float row = 0.0f, column = 0.0f, from_dh = 0.0f;
#pragma unroll
    for (int j = 0; j < G::kBands; ++j) {
      if (16 * j <= t) row += sums.row[j][t];
      if (16 * j + 15 >= t) column += sums.column[j][t];
    }
#pragma unroll
    for (int j = 0; j < G::Width::kAcross; ++j) from_dh += sums.from_dh[j][t];
    direct[k] = column + sums.own[t] + from_dh;
    earlier[k] = dt[t] * from_dh;
    if constexpr (!S::kExact) later[k] = row - dt[t] * column;
  }
  sum_earlier(earlier, lane_);
  if constexpr (S::kExact) {
    // No difference of sums: pairs[t][s] becomes its sum over later t.
    static_assert(K == 1);
    float carried = 0.0f;
    for (int t = Q - 1; t > lane_; --t) {
      carried += sums.pairs[t * (Q + 1) + lane_];
      sums.pairs[t * (Q + 1) + lane_] = carried;
    }
    __syncwarp();
    for (int s = 0; s < lane_; ++s) later[0] += sums.pairs[lane_ * (Q + 1) + s];
  } else {
    sum_later(later, lane_);
  }
#pragma unroll
  for (int k = 0; k < K; ++k) later[k] += earlier[k];
  store_step_gradients<S>(p_, plan_, 0, block_.chunk.place, unit(i), later, direct,
                          shared_.steps[i % 3], lane_);
  if (p_.dD) store_skip_gradient(i);
}

template <class S>
__device__ void InputTile<S>::store_skip_gradient(int i) {
  const auto& sums = shared_.sums[i % 2];
  const int64_t index = block_.chunk.place * plan_.units(p_.heads) + block_.first + i;
  float* const to = plan_.dD + index * plan_.skip_columns;
  float total = 0.0f;
  for (int p = lane_; p < S::kWidth; p += device::kWarp) {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < G::Width::kDown; ++j) sum += sums.skip[j][p];
    if (plan_.skip_columns > 1) to[p] = sum;
    total += sum;
  }
  total = device::warp_sum(total);
  if (plan_.skip_columns == 1 && lane_ == 0) *to = total;
}

}  // namespace hax::ssd
