// What the attention's CPU kernels share: rows of keys and values, and the queries of one key head.
#pragma once

#include "attention/sparse_attention/sparse_attention_cpu_keys.hpp"
#include "attention/sparse_attention/sparse_attention_cpu_tiles.hpp"
#include "attention/sparse_attention/sparse_attention_cpu_vectors.hpp"
#include "core/parallel.hpp"
#include "core/simd_rows.hpp"

namespace hax::sparse_attention {
inline namespace HAX_CPU_LEVEL_NAME {

HAX_INLINE HeadRows head_rows(const Rows& rows, const Sequences::Range& range, int64_t head) {
  return {rows.at(range.row, range.begin, head), rows.token_stride, rows.width};
}

// One (b, token, head) row of q, o or their gradients in fp32, padded with 0 to `width`.
HAX_INLINE void load_padded(float* to, const Tensor& from, const Sequences::Range& range, int64_t i,
                            int64_t head, int64_t width) {
  const int64_t n = from.shape[3];
  simd::load_row(to, from, from.offset(range.row, range.begin + i, head), n);
  for (int64_t c = n; c < width; ++c) to[c] = 0.0f;
}

// The same of q, with the attention's scale.
HAX_INLINE void load_query(float* to, const Problem& p, const Sequences::Range& range, int64_t i,
                           int64_t head, int64_t width) {
  load_padded(to, p.q, range, i, head, width);
  for (int64_t c = 0; c < width; c += kLanes) simd::store(to + c, simd::load(to + c) * p.scale);
}

HAX_INLINE void store_head_row(const Tensor& to, const Sequences::Range& range, int64_t i,
                               int64_t head, const float* from) {
  simd::store_row(to, to.offset(range.row, range.begin + i, head), from, to.shape[3]);
}

HAX_INLINE float* element(const Tensor& per_row, const Sequences::Range& range, int64_t i,
                          int64_t head) {
  return per_row.at<float>(range.row, head, range.begin + i);
}

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax::sparse_attention
