// Vector code that the scans share; for *_cpu*.cpp only.
#pragma once

#include "core/simd_rows.hpp"
#include "scan/scan_blocks.hpp"

namespace hax::simd {
inline namespace HAX_CPU_LEVEL_NAME {

// 2^x - 1 with full relative precision around 0, so that h + h * (2^x - 1) decays slowly fading states
// without a bias. -1 below -126.5, saturates above 127.4; NaN stays NaN.
HAX_INLINE Vec exp2m1(Vec x) {
  const Vec clamped = min(set(127.4f), max(set(-127.0f), x));
  const Vec shifted = clamped + (0x1.8p23f + 127.0f);
  const Vec f = clamped - (shifted - (0x1.8p23f + 127.0f));
  // (2^f - 1) / f on [-1/2, 1/2], interpolated at Chebyshev nodes; relative error 2.3e-8.
  Vec p = set(1.54531634e-4f);
  p = p * f + 1.33908633e-3f;
  p = p * f + 9.61808302e-3f;
  p = p * f + 5.55035695e-2f;
  p = p * f + 2.40226507e-1f;
  p = p * f + 6.93147182e-1f;
  p = p * f;
  // The low bits of `shifted` are the exponent field of 2^round(x).
  const Vec scale = bit_cast<Vec>(bit_cast<UintVec>(shifted) << 23);
  return p * scale + (scale - 1.0f);
}

// `lanes` rows of n elements along the last axis, `lane_stride` apart, to and from to[n][width]; lanes up
// to width are zeroed.
[[gnu::noinline]] inline void load_transposed(float* to, int64_t width, const Tensor& from,
                                              int64_t offset, int64_t lane_stride, int64_t lanes,
                                              int64_t n) {
  float row[kMaxScanStates];
  for (int64_t lane = 0; lane < lanes; ++lane) {
    load_row(row, from, offset + lane * lane_stride, n);
    for (int64_t i = 0; i < n; ++i) to[i * width + lane] = row[i];
  }
  for (int64_t i = 0; i < n && lanes < width; ++i) zero_row(to + i * width + lanes, width - lanes);
}

[[gnu::noinline]] inline void store_transposed(const Tensor& to, int64_t offset,
                                               int64_t lane_stride, const float* from,
                                               int64_t width, int64_t lanes, int64_t n) {
  float row[kMaxScanStates];
  for (int64_t lane = 0; lane < lanes; ++lane) {
    for (int64_t i = 0; i < n; ++i) row[i] = from[i * width + lane];
    store_row(to, offset + lane * lane_stride, row, n);
  }
}

// A row of `count` elements padded with zeros up to `width`.
HAX_INLINE void load_padded_row(float* to, int64_t width, const Tensor& from, int64_t offset,
                                int64_t count) {
  if (count < width) zero_row(to + count, width - count);
  load_row(to, from, offset, count);
}

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax::simd
