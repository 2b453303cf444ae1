// Arithmetic between one row and a list of rows. Widths are whole vectors; a list of positions is padded to
// whole groups of kLanes with positions that may be read (KeyPiece::pad).
#pragma once

#include <utility>

#include "core/simd.hpp"

namespace hax::sparse_attention {
inline namespace HAX_CPU_LEVEL_NAME {

using simd::kLanes;
using simd::Vec;

// Rows of one head of one sequence: row j starts at data + j * stride.
struct HeadRows {
  float* data;
  int64_t stride;
  int64_t width;

  HAX_INLINE float* operator[](int64_t j) const { return data + j * stride; }
};

// Which lane of (x, y), counted through both, folding blocks of `group` lanes takes first for `lane`; the
// other one lies behind it. Small blocks stay within quads, where shuffles are cheapest.
constexpr int folded_lane(int group, int lane) {
  const int quad = lane / 4 * 4, within = lane % 4, block = lane / group;
  if (group == 1) return quad + within / 2 + within % 2 * kLanes;
  if (group == 2) return quad + within % 2 + within / 2 * kLanes;
  return block / 2 * 2 * group + lane % group + block % 2 * kLanes;
}

// x and y hold partial sums in blocks of `group` lanes; adds blocks in pairs, so that blocks of twice the
// size remain, half x's and half y's.
template <int group>
HAX_INLINE Vec fold_pair(Vec x, Vec y) {
  constexpr int behind = group < 4 ? 2 : group;
  return [&]<int... lane>(std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(x, y, folded_lane(group, lane)...) +
           __builtin_shufflevector(x, y, (folded_lane(group, lane) + behind)...);
  }
  (std::make_integer_sequence<int, kLanes>{});
}

// Lane l of the result: the sum of sums[l]'s lanes. Destroys sums.
HAX_INLINE Vec transpose_sum(Vec (&sums)[kLanes]) {
  for (int i = 0; i < kLanes / 2; ++i) sums[i] = fold_pair<1>(sums[2 * i], sums[2 * i + 1]);
  for (int i = 0; i < kLanes / 4; ++i) sums[i] = fold_pair<2>(sums[2 * i], sums[2 * i + 1]);
  if constexpr (kLanes >= 8) {
    for (int i = 0; i < kLanes / 8; ++i) sums[i] = fold_pair<4>(sums[2 * i], sums[2 * i + 1]);
  }
  if constexpr (kLanes >= 16) sums[0] = fold_pair<8>(sums[0], sums[1]);
  return sums[0];
}

// out[k] = a . rows[keys[k]] for k < count, rounded up to whole vectors.
[[gnu::noinline]] inline void dot_rows(float* out, const float* a, const HeadRows& rows,
                                       const int32_t* keys, int count) {
  for (int k = 0; k < count; k += kLanes) {
    const float* row[kLanes];
    for (int l = 0; l < kLanes; ++l) row[l] = rows[keys[k + l]];
    Vec sums[kLanes] = {};
    for (int64_t c = 0; c < rows.width; c += kLanes) {
      const Vec x = simd::load(a + c);
      for (int l = 0; l < kLanes; ++l) sums[l] += x * simd::load(row[l] + c);
    }
    simd::store(out + k, transpose_sum(sums));
  }
}

// `vecs` vectors of sum += weight[k] rows[keys[k]], beginning at column c; `ways` keys at a time.
template <int vecs, int ways>
HAX_INLINE void add_row_columns(float* sum, const float* weight, const HeadRows& rows,
                                const int32_t* keys, int count, int64_t c) {
  Vec sums[ways][vecs] = {};
  for (int i = 0; i < vecs; ++i) sums[0][i] = simd::load(sum + c + i * kLanes);
  int k = 0;
  for (; k + ways <= count; k += ways) {
    for (int w = 0; w < ways; ++w) {
      const float* row = rows[keys[k + w]] + c;
      const Vec x = simd::set(weight[k + w]);
      for (int i = 0; i < vecs; ++i) sums[w][i] += x * simd::load(row + i * kLanes);
    }
  }
  for (; k < count; ++k) {
    const float* row = rows[keys[k]] + c;
    const Vec x = simd::set(weight[k]);
    for (int i = 0; i < vecs; ++i) sums[0][i] += x * simd::load(row + i * kLanes);
  }
  for (int i = 0; i < vecs; ++i) {
    for (int w = 1; w < ways; ++w) sums[0][i] += sums[w][i];
    simd::store(sum + c + i * kLanes, sums[0][i]);
  }
}

// sum += sum_k weight[k] rows[keys[k]].
[[gnu::noinline]] inline void add_rows(float* sum, const float* weight, const HeadRows& rows,
                                       const int32_t* keys, int count) {
  int64_t c = 0;
  for (; c + 8 * kLanes <= rows.width; c += 8 * kLanes) {
    add_row_columns<8, 1>(sum, weight, rows, keys, count, c);
  }
  for (; c + 4 * kLanes <= rows.width; c += 4 * kLanes) {
    add_row_columns<4, 2>(sum, weight, rows, keys, count, c);
  }
  for (; c < rows.width; c += kLanes) {
    add_row_columns<1, 4>(sum, weight, rows, keys, count, c);
  }
}

template <int vecs>
HAX_INLINE void scatter_columns(const HeadRows& rows, const int32_t* keys, int count,
                                const float* weight, const float* a, int64_t c) {
  Vec x[vecs];
  for (int i = 0; i < vecs; ++i) x[i] = simd::load(a + c + i * kLanes);
  for (int k = 0; k < count; ++k) {
    float* row = rows[keys[k]] + c;
    const Vec w = simd::set(weight[k]);
    for (int i = 0; i < vecs; ++i) {
      simd::store(row + i * kLanes, simd::load(row + i * kLanes) + w * x[i]);
    }
  }
}

// rows[keys[k]] += weight[k] a.
[[gnu::noinline]] inline void scatter_rows(const HeadRows& rows, const int32_t* keys, int count,
                                           const float* weight, const float* a) {
  int64_t c = 0;
  for (; c + 8 * kLanes <= rows.width; c += 8 * kLanes) {
    scatter_columns<8>(rows, keys, count, weight, a, c);
  }
  for (; c + 4 * kLanes <= rows.width; c += 4 * kLanes) {
    scatter_columns<4>(rows, keys, count, weight, a, c);
  }
  for (; c < rows.width; c += kLanes) scatter_columns<1>(rows, keys, count, weight, a, c);
}

// Softmax of one row over keys that come piece by piece. The weights are exp(score - top), and `sum` is
// theirs. Scores of -infinity weigh 0; a score of NaN or +infinity, or nothing but -infinity, makes the
// row NaN.
struct Softmax {
  float top = -std::numeric_limits<float>::infinity();
  float sum = 0.0f;

  // Turns `count` scores into weights (lanes up to whole vectors become 0) and rescales what the row has
  // summed so far.
  [[gnu::noinline]] void take(float* scores, int count, float* output, int64_t width) {
    constexpr float kNone = -std::numeric_limits<float>::infinity();
    for (int k = count; k % kLanes != 0; ++k) scores[k] = kNone;
    Vec tops = simd::set(kNone);
    for (int k = 0; k < count; k += kLanes) tops = simd::max(simd::load(scores + k), tops);
    const float best = simd::max_lane(tops);
    if (best > top) {
      if (top != kNone) rescale(simd::exp(simd::set(top - best)), output, width);
      top = best;
    }
    const Vec shift = simd::set(top == kNone ? 0.0f : top);
    Vec sums = {};
    for (int k = 0; k < count; k += kLanes) {
      const Vec weight = simd::exp(simd::load(scores + k) - shift);
      sums += weight;
      simd::store(scores + k, weight);
    }
    sum += simd::sum(sums);
  }

  HAX_INLINE void rescale(Vec factor, float* output, int64_t width) {
    sum *= factor[0];
    for (int64_t c = 0; c < width; c += kLanes) {
      simd::store(output + c, simd::load(output + c) * factor);
    }
  }

  HAX_INLINE float log_sum_exp() const { return top + __builtin_logf(sum); }
};

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax::sparse_attention
