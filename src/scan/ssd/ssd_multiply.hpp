// Products of small fp32 matrices that lie in cache; for *_cpu*.cpp only.
#pragma once

#include "core/simd.hpp"
#include "scan/scan_blocks.hpp"

namespace hax::ssd {
inline namespace HAX_CPU_LEVEL_NAME {

// The left factor; strides in floats, so that a transposed matrix is one with its strides exchanged.
struct Factor {
  const float* data;
  int64_t row_stride;
  int64_t column_stride;
};

// Which terms k a row i sums: with triangular factors, what lies beyond the diagonal is never read.
enum class Terms { all, up_to_row, from_row };

struct Product {
  float* out;  // (rows, width), overwritten or added to
  int64_t out_stride;
  int64_t rows, width;  // width a multiple of kLanes
  Factor a;             // (rows, depth)
  const float* b;       // (depth, width)
  int64_t b_stride;
  int64_t depth;
  Terms terms = Terms::all;
  bool add = false;
};

template <int kRows, int kVecs>
HAX_INLINE void add_term(simd::Vec (&sums)[kRows][kVecs], const Product& m, int64_t i,
                         int64_t column, int64_t k, int first_row, int last_row) {
  const float* const b = m.b + k * m.b_stride + column;
  simd::Vec rhs[kVecs];
  for (int v = 0; v < kVecs; ++v) rhs[v] = simd::load(b + v * simd::kLanes);
  const float* const a = m.a.data + i * m.a.row_stride + k * m.a.column_stride;
  for (int r = first_row; r < last_row; ++r) {
    const float lhs = a[r * m.a.row_stride];
    for (int v = 0; v < kVecs; ++v) sums[r][v] += lhs * rhs[v];
  }
}

// kRows rows from i on, kVecs vectors from `column` on.
template <int kRows, int kVecs>
HAX_INLINE void multiply_piece(const Product& m, int64_t i, int64_t column) {
  simd::Vec sums[kRows][kVecs] = {};
  float* const out = m.out + i * m.out_stride + column;
  if (m.add) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVecs; ++v) {
        sums[r][v] = simd::load(out + r * m.out_stride + v * simd::kLanes);
      }
    }
  }
  int64_t begin = 0, end = m.depth;
  if (m.terms == Terms::up_to_row) end = smaller(end, i + 1);
  if (m.terms == Terms::from_row) begin = i + kRows - 1;
  for (int64_t k = begin; k < end; ++k) add_term<kRows, kVecs>(sums, m, i, column, k, 0, kRows);
  if (m.terms == Terms::up_to_row) {
#pragma GCC unroll 4
    for (int r = 1; r < kRows; ++r) add_term<kRows, kVecs>(sums, m, i, column, i + r, r, kRows);
  }
  if (m.terms == Terms::from_row) {
#pragma GCC unroll 4
    for (int r = 0; r + 1 < kRows; ++r) add_term<kRows, kVecs>(sums, m, i, column, i + r, 0, r + 1);
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      simd::store(out + r * m.out_stride + v * simd::kLanes, sums[r][v]);
    }
  }
}

template <int kVecs>
HAX_INLINE void multiply_columns(const Product& m, int64_t column) {
  constexpr int kRows = 4;
  int64_t i = 0;
  for (; i + kRows <= m.rows; i += kRows) multiply_piece<kRows, kVecs>(m, i, column);
  for (; i < m.rows; ++i) multiply_piece<1, kVecs>(m, i, column);
}

// Triangular products need a square left factor.
[[gnu::noinline]] inline void multiply(const Product& m) {
  int64_t column = 0;
  for (; column + 2 * simd::kLanes <= m.width; column += 2 * simd::kLanes) {
    multiply_columns<2>(m, column);
  }
  for (; column < m.width; column += simd::kLanes) multiply_columns<1>(m, column);
}

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax::ssd
