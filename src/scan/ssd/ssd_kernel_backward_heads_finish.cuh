// What a warp makes of the sums over a unit's pairs of tokens.
#pragma once

#include <cfloat>

#include "scan/ssd/ssd_kernel_backward_heads_unit.cuh"

namespace hax::ssd {

template <class S>
__device__ void UnitGradients<S>::put_rows(float (&rows)[Blocks::kBands][4]) {
  static_assert(Blocks::kBands % 2 == 0);
#pragma unroll
  for (int j = 0; j < Blocks::kBands; j += 2) {
    float values[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) values[k] = rows[j + k / 4][k % 4];
    const int k = sum_over_rows(values, lane_);
    head_.later[16 * (j + k / 4) + k % 4 / 2 * 8 + lane_ % 4 * 2 + k % 2] += values[0];
  }
}

template <class S>
__device__ void UnitGradients<S>::store_skip_gradient(float (&skip)[4]) {
  float* const to =
      plan_.dD + (chunk_.place * plan_.units(p_.heads) + unit_.index) * plan_.skip_columns;
  const int k = sum_over_rows(skip, lane_);
  if (plan_.skip_columns > 1) {
    if (lane_ < 16) to[k / 2 * 8 + lane_ % 4 * 2 + k % 2] = skip[0];
    return;
  }
  const float total = device::warp_sum(lane_ < 16 ? skip[0] : 0.0f);
  if (lane_ == 0) *to = total;
}

template <class S>
__device__ void UnitGradients<S>::finish() {
  float later[2], earlier[2], direct[2], dt[2];
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const int t = 2 * lane_ + k;
    dt[k] = head_.dt[t];
    const float column = head_.earlier[0][t], from_dh = head_.earlier[1][t];
    later[k] = head_.later[t] - dt[k] * column;
    earlier[k] = dt[k] * from_dh;
    direct[k] = column + head_.own[t] + from_dh;
  }
  sum_later(later, lane_);
  sum_earlier(earlier, lane_);
  const bool limits = p_.dt_min > 0.0f || p_.dt_max <= FLT_MAX;
  const float rate = *p_.A.at<float>(unit_.head);
  float dA = 0.0f, dbias = 0.0f;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const int t = 2 * lane_ + k;
    const float dexponent = later[k] + earlier[k] + through_;
    dA += dexponent * dt[k];
    if (t >= chunk_.tokens) continue;
    float slope = device::sigmoid(raw_[k]);
    if (limits) {
      const float step = device::softplus_accurate(raw_[k]);
      if (step < p_.dt_min || step > p_.dt_max) slope = 0.0f;
    }
    const float sum = rate * dexponent + direct[k];
    const float ddt = slope == 0.0f ? 0.0f : sum * slope;
    if (p_.ddt) {
      device::store_any(p_.ddt, p_.ddt.offset(chunk_.sequence.row, chunk_.token() + t, unit_.head),
                        ddt);
    }
    dbias += ddt;
  }
  dA = device::warp_sum(dA);
  dbias = device::warp_sum(dbias);
  if (lane_ != 0) return;
  plan_.dA[chunk_.place * plan_.units(p_.heads) + unit_.index] = dA;
  plan_.dbias[chunk_.place * p_.heads + unit_.head] = dbias;
}

}  // namespace hax::ssd
