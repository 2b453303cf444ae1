// Pairs of tokens of a chunk in the gradients of its inputs, in blocks of 16 x 16.
#pragma once

#include "scan/ssd/ssd_kernel_backward_inputs_tile.cuh"

namespace hax::ssd {

template <class S>
__device__ void InputTile<S>::make_scores() {
#pragma unroll
  for (int b = 0; b < G::kBlocksPerWarp; ++b) dscores_[b].clear();
  for_blocks([&](int b) {
    Block& scores = scores_[b];
    scores.clear();
    scores.add_product(device::factor(shared_.ends.C, S::kStateRow), mix_row_[b],
                       device::transposed(shared_.B, S::kStateRow), mix_column_[b], 0, S::kStates);
  });
}

template <class S>
template <bool kDiagonal>
__device__ void InputTile<S>::gradients_of_block(const Stage& stage, int i, int b) {
  auto& sums = shared_.sums[i % 2];
  const int row = mix_row_[b], column = mix_column_[b];
  Block dmix;
  dmix.clear();
  dmix.add_product(device::factor(stage.g, S::kWidthRow), row,
                   device::transposed(stage.x, S::kWidthRow), column, 0, S::kWidth);
  const int r = lane_ / 4, c = lane_ % 4 * 2;
  const float* const dts = shared_.steps[i % 3].values;
  const float* const high = dts + Q;
  const float* const low = high + Q;  // only where kExact
  float rows[2] = {}, columns[4] = {};
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int s = column + 8 * j + c;
    const float2 from = *reinterpret_cast<const float2*>(high + s);
    const float2 step = *reinterpret_cast<const float2*>(dts + s);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int t = row + r + 8 * half;
      const float* const scores = &scores_[b].values[0][j][2 * half];
      float mixed[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float dt = e ? step.y : step.x;
        float difference = high[t] - (e ? from.y : from.x);
        if constexpr (S::kExact) difference += low[t] - low[s + e];
        const bool causal = !kDiagonal || s + e <= t, strictly = !kDiagonal || s + e < t;
        const float decay = causal ? device::exp2_approx(difference) : 0.0f;
        const float faded = causal ? scores[e] * decay : 0.0f;
        const float dm = dmix.values[0][j][2 * half + e];
        const float share = dm * faded;
        mixed[e] = faded * dt;
        dscores_[b].values[0][j][2 * half + e] += dm * (decay * dt);
        rows[half] += strictly ? share * dt : 0.0f;
        columns[2 * j + e] += strictly ? share : 0.0f;
        if (kDiagonal && s + e == t) sums.own[t] = share;
        if constexpr (S::kExact) sums.pairs[t * (Q + 1) + s + e] = strictly ? share * dt : 0.0f;
      }
      device::store_packed<T, 2>(shared_.mix + t * S::kTokenRow + s, mixed);
    }
  }
  const int k = sum_over_rows(columns, lane_);
  if (r < 4) sums.column[row / 16][column + k / 2 * 8 + c + k % 2] = columns[0];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = device::warp_sum<4>(rows[half]);
    if (c == 0) sums.row[column / 16][row + r + 8 * half] = total;
  }
}

template <class S>
__device__ void InputTile<S>::put_dscores() {
  for_blocks([&](int b) {
    const auto put = [&](Block& block, int row, int column) {
      block.for_each_pair([&](float x, float y, int t, int s) {
        const float pair[] = {x, y};
        device::store_packed<T, 2>(shared_.mix + (row + t) * S::kTokenRow + column + s, pair);
      });
    };
    put(dscores_[b], mix_row_[b], mix_column_[b]);
    if (mix_row_[b] == mix_column_[b]) return;
    Block zero;
    zero.clear();
    put(zero, mix_column_[b], mix_row_[b]);
  });
}

template <class S>
__device__ void InputTile<S>::store_dscores() {
  constexpr int kThreads = G::kWarps * device::kWarp;
  T* const to = static_cast<T*>(plan_.dscores) + block_.dscores_offset(plan_, p_.groups);
  store_rows<Q, Q, S::kTokenRow>(Team<kThreads>{static_cast<int>(threadIdx.x)},
                                 OutputRows<T>{to, Q, 1, Q, Q, true}, shared_.mix);
}

}  // namespace hax::ssd
