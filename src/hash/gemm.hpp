// Small matrix products of the CPU kernels; only files named *_cpu*.cpp include it. A product is cut
// into blocks of kBlockRows rows and one panel of kPanel columns, whose sums stay in registers.
#pragma once

#include "core/simd_rows.hpp"
#include "hash/sequence_tiles.hpp"

namespace hax::gemm {
inline namespace HAX_CPU_LEVEL_NAME {

inline constexpr int kBlockRows = 6;
inline constexpr int kPanel = 2 * simd::kLanes;
inline constexpr int64_t kMaxPanel = 32;  // of all levels, for sizing memory
static_assert(kMaxPanel % kPanel == 0);

// A matrix by its two strides; transposing is swapping them.
struct Strided {
  const float* data;
  int64_t row, column;
};

// finish(row, lane, start(row, lane) + sum over depth of a[row][d] b[d][lane ...]) for the rows of a
// block and the vectors of a panel. b's rows are `b_row` apart.
template <class Start, class Finish>
HAX_INLINE void multiply_block(const Strided& a, const float* b, int64_t b_row, int64_t depth,
                               Start&& start, Finish&& finish) {
  constexpr int kVectors = kPanel / simd::kLanes;
  simd::Vec sums[kBlockRows][kVectors];
  for (int r = 0; r < kBlockRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = start(r, v * simd::kLanes);
  }
  const float* left = a.data;
  for (int64_t d = 0; d < depth; ++d, left += a.column, b += b_row) {
    simd::Vec right[kVectors];
    for (int v = 0; v < kVectors; ++v) right[v] = simd::load(b + v * simd::kLanes);
    for (int r = 0; r < kBlockRows; ++r) {
      for (int v = 0; v < kVectors; ++v) sums[r][v] += left[r * a.row] * right[v];
    }
  }
  for (int r = 0; r < kBlockRows; ++r) {
    for (int v = 0; v < kVectors; ++v) finish(r, v * simd::kLanes, sums[r][v]);
  }
}

// Where element (d, c) of a matrix with `depth` rows lies when its panels are stored one by one.
HAX_INLINE int64_t panel_index(int64_t depth, int64_t d, int64_t c) {
  return (c / kPanel * depth + d) * kPanel + c % kPanel;
}

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax::gemm
