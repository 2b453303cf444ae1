// y of a chunk of a span, when the state has come to it.
#pragma once

#include "scan/ssd/ssd_kernel_span_block.cuh"

namespace hax::ssd {

template <class T, int Pairs, Pass kPass>
__device__ void SpanBlock<T, Pairs, kPass>::outputs(const Sequences::Range& range,
                                                    const Chunk& chunk) const {
  const int lane = threadIdx.x % device::kWarp, r = lane / 4, c = lane % 4;
  const MatrixPlace rows_first(Panel{4}, false), groups_first(Panel{4}, true);
  const MatrixPlace x_place(Panel{2 * Pairs}, true);
  const uint32_t B_tile = memory_.B(chunk_), C_tile = memory_.C(chunk_);
  const uint32_t x_tile = memory_.x(chunk_, unit_);
  const Decays& d = memory_.decays(chunk_, unit_);
  // The state before the chunk as right operands: 16 states by 8 rows of the head twice.
  uint32_t h[Pairs][2][4];
  const float* const state = memory_.state(chunk_, unit_) + r * kStateStride + 2 * c;
#pragma unroll
  for (int q = 0; q < Pairs; ++q) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 pair = *reinterpret_cast<const float2*>(
            state + (16 * q + i / 2 * 8) * kStateStride + 16 * k + i % 2 * 8);
        h[q][k][i] = device::pack_pair<T>(pair.x, pair.y);
      }
    }
  }
  const OutputTokens<T, Pairs, kPlain> away{p_, access_, head_, first_row_};
  T* const y_at = away.lane_start(p_.y, range.row, range.begin + chunk.begin);
  // From the last sub-block to the first: y takes the place of x that none before it needs.
#pragma unroll 1
  for (int i = (chunk.tokens - 1) / kBlock; i >= 0; --i) {
    uint32_t C[2][4];
    float y[2 * Pairs][4] = {};
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      device::load_matrix_x4(C[k], C_tile + i * kBlock * 64 + rows_first.at(k));
#pragma unroll
      for (int q = 0; q < Pairs; ++q) {
        device::mma_16x8x16<T>(y[2 * q], C[k], {h[q][k][0], h[q][k][1]});
        device::mma_16x8x16<T>(y[2 * q + 1], C[k], {h[q][k][2], h[q][k][3]});
      }
    }
    const float from_start[2] = {d.from_start[i * kBlock + r], d.from_start[i * kBlock + r + 8]};
#pragma unroll
    for (int q = 0; q < 2 * Pairs; ++q) {
#pragma unroll
      for (int e = 0; e < 4; ++e) y[q][e] *= from_start[e / 2];
    }
    // y takes in sub-block j, weighed by `weigh`.
    const auto take_in = [&](int j, auto&& weigh) {
      float scores[2][4] = {};
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        uint32_t B[4];
        device::load_matrix_x4(B, B_tile + j * kBlock * 64 + groups_first.at(k));
        device::mma_16x8x16<T>(scores[0], C[k], {B[0], B[1]});
        device::mma_16x8x16<T>(scores[1], C[k], {B[2], B[3]});
      }
      uint32_t mix[4];
      weigh(mix, scores);
#pragma unroll
      for (int q = 0; q < Pairs; ++q) {
        uint32_t x[4];
        device::load_matrix_x4_transposed(x, x_tile + j * kBlock * Pairs * 32 + x_place.at(q));
        device::mma_16x8x16<T>(y[2 * q], mix, {x[0], x[2]});
        device::mma_16x8x16<T>(y[2 * q + 1], mix, {x[1], x[3]});
      }
    };
    take_in(i, [&](auto& mix, auto& scores) { weigh_own_scores<T>(mix, scores, d, i, skip_); });
    float gap = 0.0f;
#pragma unroll 1
    for (int j = i - 1; j >= 0; --j) {
      take_in(j, [&](auto& mix, auto& scores) { weigh_scores<T>(mix, scores, d, i, j, gap); });
      gap += d.block[j];
    }
    const int first = i * kBlock;
    away.finish(y, x_tile + first * Pairs * 32, y_at + first * p_.y.stride[1], range.row,
                range.begin + chunk.begin + first, chunk.tokens - first);
  }
}

}  // namespace hax::ssd
