// A unit's pairs of tokens (t, s) of a chunk, blocks of 16 x 16 of them by a warp each: mix and dscores to shared memory, and
// sums of what they give to y . g.
#pragma once

#include "scan/ssd/ssd_kernel_backward_chunk_memory.cuh"

namespace hax::ssd {

template <class S>
class ChunkPairs {
  using T = typename S::T;
  using Shared = ChunkShared<S>;
  static constexpr int Q = S::kTokens, kBands = Q / 16, kBlocks = kBands * (kBands + 1) / 2;
  static constexpr int kPlaceBits = 8, kBandBits = 4;

 public:
  __device__ explicit ChunkPairs(Shared& shared) : shared_(shared) {
    int shift = 0;
    for (int index = warp_; index < kBlocks; index += kChunkWarps, shift += kPlaceBits) {
      int t = 0;
      while ((t + 1) * (t + 2) / 2 <= index) ++t;
      places_ |= static_cast<uint32_t>(index - t * (t + 1) / 2 | t << kBandBits) << shift;
    }
  }

  // steps: as in StepRows.
  __device__ void run(int stage, const float* steps) {
    uint32_t places = places_;
#pragma unroll 1
    for (int index = warp_; index < kBlocks; index += kChunkWarps, places >>= kPlaceBits) {
      const int s = places & ((1 << kBandBits) - 1),
                t = places >> kBandBits & ((1 << kBandBits) - 1);
      if (s == t) {
        block<true>(stage, steps, s, t);
      } else {
        block<false>(stage, steps, s, t);
      }
    }
  }

 private:
  // d[n] += rows of 16 columns of `left` times those of `right`.
  __device__ void add_product(float (&d)[2][4], uint32_t left, uint32_t right, int k) const {
    uint32_t a[4], b[4];
    device::load_matrix_x4(a, left + (offset_ ^ k * 32));
    device::load_matrix_x4(b, right + (right_offset_ ^ k * 32));
    device::mma_16x8x16<T>(d[0], a, {b[0], b[1]});
    device::mma_16x8x16<T>(d[1], a, {b[2], b[3]});
  }

  template <bool kDiagonal>
  __device__ void block(int stage, const float* dts, int band_s, int band_t) {
    const int r = lane_ / 4, c = lane_ % 4 * 2, s = 16 * band_s + r;
    float dmix[2][4] = {}, scores[2][4] = {};
    const uint32_t x = shared_.x[stage].address() + band_s * 2048;
    const uint32_t g = shared_.g[stage].address() + band_t * 2048;
#pragma unroll
    for (int k = 0; k < S::kWidth / 16; ++k) add_product(dmix, x, g, k);
    const uint32_t B = shared_.B.address() + band_s * 2048;
    const uint32_t C = shared_.C.address() + band_t * 2048;
#pragma unroll
    for (int k = 0; k < S::kStates / 16; ++k) {
      const int panel = k / 4 * Shared::Rows::kPanelBytes;
      add_product(scores, B + panel, C + panel, k % 4);
    }
    const float* const exponents = dts + Q;
    const float from[2] = {exponents[s], exponents[s + 8]}, dt[2] = {dts[s], dts[s + 8]};
    float sums[2] = {}, rows[4] = {};
    uint32_t mix[4], dscores[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {  // as left operands lie
      const int n = k / 2, half = k % 2, t = 16 * band_t + 8 * n + c;
      const float2 to = *reinterpret_cast<const float2*>(exponents + t);
      float mixed[2], gradient[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int over = 8 * n + c + e - r - 8 * half;  // t - s on the diagonal
        float decay = device::exp2_approx((e ? to.y : to.x) - from[half]);
        if (kDiagonal && over < 0) decay = 0.0f;
        const float dm = dmix[n][2 * half + e];
        mixed[e] = scores[n][2 * half + e] * decay;
        gradient[e] = dm * decay;
        float share = dm * mixed[e];
        if (kDiagonal && over == 0) {
          shared_.own[t + e] = share;
          shared_.skip[t + e] = dm;
          share = 0.0f;
        }
        sums[half] += share;
        rows[2 * n + e] += share * dt[half];
      }
      mix[k] = device::pack_pair<T>(mixed[0], mixed[1]);
      dscores[k] = device::pack_pair<T>(gradient[0] * dt[half], gradient[1] * dt[half]);
    }
    constexpr int kHalf = kBands / 2;
    const int quarter = band_s / kHalf + band_t / kHalf;
    const uint32_t place = band_s % kHalf * 2048 + (offset_ ^ band_t % kHalf * 32);
    device::store_matrix_x4(shared_.mix[quarter].address() + place, mix);
    device::store_matrix_x4(shared_.dscores[quarter].address() + place, dscores);
    const float sum = device::warp_sums<4>(sums, lane_);
    if (lane_ % 4 < 2) shared_.column[band_t][s + lane_ % 2 * 8] = sum;
    const int k = sum_over_rows(rows, lane_);
    if (r < 4) shared_.row[band_s][16 * band_t + k / 2 * 8 + c + k % 2] = rows[0];
  }

  Shared& shared_;
  const int lane_ = threadIdx.x % device::kWarp, warp_ = threadIdx.x / device::kWarp;
  const int offset_ = lane_offset(lane_), right_offset_ = right_lane_offset(lane_);
  uint32_t places_ = 0;  // bands s and t of the warp's blocks
};

}  // namespace hax::ssd
