// How much every token of a chunk takes from every earlier one.
#pragma once

#include "scan/ssd/ssd_kernel_forward_block.cuh"

namespace hax::ssd {

template <class T, int N, bool kOutput>
__device__ void ForwardBlock<T, N, kOutput>::make_mix(const Chunk& chunk, int units) {
  constexpr int kPairs = kBlocks * (kBlocks + 1) / 2;
  const MatrixPlace rows_first(state_panel(), false), groups_first(state_panel(), true);
  const int r = lane_ / 4, c = lane_ % 4;
  for (int pair = warp_; pair < kPairs; pair += blockDim.x / device::kWarp) {
    const int i = pair >= 6 ? 3 : pair >= 3 ? 2 : pair >= 1 ? 1 : 0;
    const int j = pair - i * (i + 1) / 2;
    if (i * kBlock >= chunk.tokens) break;
    float scores[2][4] = {};
#pragma unroll
    for (int k = 0; k < N / 16; ++k) {
      uint32_t C[4], B[4];
      device::load_matrix_x4(C, states_at(C_tile(chunk), rows_first, i * kBlock, k));
      device::load_matrix_x4(B, states_at(B_tile(chunk), groups_first, j * kBlock, k));
      device::mma_16x8x16<T>(scores[0], C, {B[0], B[1]});
      device::mma_16x8x16<T>(scores[1], C, {B[2], B[3]});
    }
    for (int u = 0; u < units; ++u) {
      const Decays& d = decays(chunk, u);
      const uint32_t mix = mix_tile(chunk, u);
      const int t = i * kBlock + r;
      const float within[2] = {d.within[t], d.within[t + 8]};
      float gap = 0.0f;
      for (int b = j + 1; b < i; ++b) gap += d.block[b];
      const float reach[2] = {device::exp2_approx(within[0] + gap),
                              device::exp2_approx(within[1] + gap)};
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        const int s = j * kBlock + 8 * q + 2 * c;
        float values[4];
        if (i == j) {
          const float2 dt = *reinterpret_cast<const float2*>(&d.dt[s]);
          const float2 other = *reinterpret_cast<const float2*>(&d.within[s]);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float exponent = within[e / 2] - (e % 2 ? other.y : other.x);
            const float decay = device::exp2_approx(exponent) * (e % 2 ? dt.y : dt.x);
            values[e] = s + e % 2 <= t + e / 2 * 8 ? scores[q][e] * decay : 0.0f;
          }
        } else {
          const float2 to_end = *reinterpret_cast<const float2*>(&d.to_end[s]);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            values[e] = scores[q][e] * reach[e / 2] * (e % 2 ? to_end.y : to_end.x);
          }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          device::store_shared(mix + mix_panel().at(t + 8 * half, s / 8) + 4 * c,
                               device::pack_pair<T>(values[2 * half], values[2 * half + 1]));
        }
      }
    }
  }
}

}  // namespace hax::ssd
