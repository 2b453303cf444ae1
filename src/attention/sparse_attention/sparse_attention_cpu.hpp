// What the attention's CPU kernels share: rows of keys and values, and the queries of one key head.
#pragma once

#include "attention/sparse_attention/sparse_attention_cpu_keys.hpp"
#include "attention/sparse_attention/sparse_attention_cpu_tiles.hpp"
#include "attention/sparse_attention/sparse_attention_cpu_vectors.hpp"
#include "core/parallel.hpp"
#include "core/simd_rows.hpp"

namespace hax::sparse_attention {
inline namespace HAX_CPU_LEVEL_NAME {

// One of the heads that are worked on at a time.
struct RoundHead {
  int64_t row, head;  // on the axes B and Hk
  int64_t slot;       // within the round
};

HAX_INLINE RoundHead round_head(const Problem& p, int64_t first, int64_t slot) {
  return {(first + slot) / p.k_heads, (first + slot) % p.k_heads, slot};
}

// Calls f(first, count) for every round of heads.
template <class F>
HAX_INLINE void for_each_round(const Rounds& rounds, F&& f) {
  for (int64_t first = 0; first < rounds.heads; first += rounds.size) {
    const int64_t left = rounds.heads - first;
    f(first, left < rounds.size ? left : rounds.size);
  }
}

// A head's rows from token `begin` on; of a sum's copy those of part 0.
HAX_INLINE HeadRows head_rows(const Rows& rows, const RoundHead& h, int64_t begin) {
  if (rows.copied) {
    return {rows.data + h.slot * rows.slot_stride + begin * rows.width, rows.width, rows.width};
  }
  return {
      rows.data + h.row * rows.batch_stride + h.head * rows.head_stride + begin * rows.token_stride,
      rows.token_stride, rows.width};
}

// Calls f(head, first token, end) in parallel for stretches of tokens of a round's heads.
template <class F>
HAX_INLINE void for_each_stretch(const Problem& p, int64_t first, int64_t count, int num_threads,
                                 F&& f) {
  constexpr int64_t kTokens = 256;
  const int64_t length = p.sequences.length;
  const int64_t stretches = (length + kTokens - 1) / kTokens;
  parallel_for(num_threads, count * stretches, [&](int64_t task, int) {
    const int64_t begin = task % stretches * kTokens;
    f(round_head(p, first, task / stretches), begin,
      begin + kTokens < length ? begin + kTokens : length);
  });
}

HAX_INLINE void copy_rows(const Tensor& from, const Rows& to, const RoundHead& h, int64_t begin,
                          int64_t end) {
  if (!to.copied) return;
  const HeadRows rows = head_rows(to, h, 0);
  const int64_t n = from.shape[3];
  for (int64_t t = begin; t < end; ++t) {
    simd::load_row(rows[t], from, from.offset(h.row, t, h.head), n);
    for (int64_t c = n; c < to.width; ++c) rows[t][c] = 0.0f;
  }
}

// Fills the workspace's copies of keys and values, where there are any.
inline void copy_keys_and_values(const Problem& p, const Rows& k, const Rows& v, int64_t first,
                                 int64_t count, int num_threads) {
  if (!k.copied && !v.copied) return;
  for_each_stretch(p, first, count, num_threads,
                   [&](const RoundHead& h, int64_t begin, int64_t end) {
                     copy_rows(p.k, k, h, begin, end);
                     copy_rows(p.v, v, h, begin, end);
                   });
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
