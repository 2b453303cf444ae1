// Small dense products for the full pattern: C += A B, row by row in registers.
#pragma once

#include "attention/sparse_attention/sparse_attention.hpp"
#include "core/simd.hpp"

namespace hax::sparse_attention {
inline namespace HAX_CPU_LEVEL_NAME {

// Element (i, k) of A is at a[i * row + k * column], so that A may also be read transposed.
struct TileFactor {
  const float* data;
  int64_t row, column;
};

struct TileRows {
  float* data;
  int64_t stride;
};

template <int rows, int vecs>
HAX_INLINE void multiply_block(const TileRows& c, const TileFactor& a, const TileRows& b,
                               int64_t depth, int64_t i, int64_t n) {
  simd::Vec sums[rows][vecs];
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < vecs; ++v) {
      sums[r][v] = simd::load(c.data + (i + r) * c.stride + n + v * simd::kLanes);
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    simd::Vec y[vecs];
    for (int v = 0; v < vecs; ++v) y[v] = simd::load(b.data + k * b.stride + n + v * simd::kLanes);
    for (int r = 0; r < rows; ++r) {
      const simd::Vec x = simd::set(a.data[(i + r) * a.row + k * a.column]);
      for (int v = 0; v < vecs; ++v) sums[r][v] += x * y[v];
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < vecs; ++v) {
      simd::store(c.data + (i + r) * c.stride + n + v * simd::kLanes, sums[r][v]);
    }
  }
}

template <int rows>
HAX_INLINE void multiply_rows(const TileRows& c, const TileFactor& a, const TileRows& b,
                              int64_t width, int64_t depth, int64_t i) {
  constexpr int64_t kTwo = 2 * simd::kLanes;
  int64_t n = 0;
  for (; n + kTwo <= width; n += kTwo) multiply_block<rows, 2>(c, a, b, depth, i, n);
  for (; n < width; n += simd::kLanes) multiply_block<rows, 1>(c, a, b, depth, i, n);
}

// C (height, width) += A (height, depth) B (depth, width); width is whole vectors.
[[gnu::noinline]] inline void multiply_add(const TileRows& c, const TileFactor& a,
                                           const TileRows& b, int64_t height, int64_t width,
                                           int64_t depth) {
  int64_t i = 0;
  for (; i + 4 <= height; i += 4) multiply_rows<4>(c, a, b, width, depth, i);
  for (; i < height; ++i) multiply_rows<1>(c, a, b, width, depth, i);
}

HAX_INLINE int64_t whole_vectors(int64_t n) {
  return (n + simd::kLanes - 1) / simd::kLanes * simd::kLanes;
}

// to[c][k] = from[k][c] for k < count and c < width; rows of `to` have kTileKeys elements, of which those
// behind `count` become 0 up to whole vectors.
[[gnu::noinline]] inline void transpose_rows(float* to, const TileRows& from, int64_t count,
                                             int64_t width) {
  for (int64_t c = 0; c < width; ++c) {
    float* const row = to + c * kTileKeys;
    for (int64_t k = 0; k < count; ++k) row[k] = from.data[k * from.stride + c];
    for (int64_t k = count; k < whole_vectors(count); ++k) row[k] = 0.0f;
  }
}

// Cuts queries [first, last) where tiles begin: f(tile's base, begin, end). Tiles lie at multiples of
// kTileQueries of the sequence, so that a query's arithmetic doesn't depend on where a task begins.
template <class F>
HAX_INLINE void for_each_tile(int64_t first, int64_t last, F&& f) {
  while (first < last) {
    const int64_t base = first / kTileQueries * kTileQueries;
    const int64_t end = base + kTileQueries < last ? base + kTileQueries : last;
    f(base, first, end);
    first = end;
  }
}

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax::sparse_attention
