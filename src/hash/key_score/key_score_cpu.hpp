// What key_score's CPU kernels share: the running sum of queries and the two hidden layers.
#pragma once

#include "core/parallel.hpp"
#include "hash/gemm.hpp"
#include "hash/key_score/key_score.hpp"

namespace hax::key_score {
inline namespace HAX_CPU_LEVEL_NAME {

using gemm::kBlockRows;
using gemm::kPanel;
static_assert(kStep % kBlockRows == 0 && kBlockRows == 6);

inline constexpr double kMinNorm = 1e-12;

// Sum of q over the tokens of a sequence up to the latest one added, of one head.
struct QuerySum {
  int64_t features;  // padded
  double sum[kMaxFeatures];
  float query[kMaxFeatures];  // latest one added, 0 in the padding

  HAX_INLINE explicit QuerySum(const Inputs& p) : features(p.padded_features()) {
    for (int64_t n = 0; n < features; ++n) {
      sum[n] = 0.0;
      query[n] = 0.0f;
    }
  }

  HAX_INLINE void add(const Inputs& p, const Sequences::Range& range, int64_t t, int64_t head) {
    simd::load_row(query, p.q, p.q.offset(range.row, range.begin + t, head), p.features);
    for (int64_t n = 0; n < features; ++n) sum[n] += query[n];
  }

  // 1 / its own norm, added up in an order that doesn't depend on the vectors' width.
  HAX_INLINE double inverse_norm() const {
    double lanes[8] = {};
    for (int64_t n = 0; n < features; n += 8) {
      for (int i = 0; i < 8; ++i) lanes[i] += sum[n + i] * sum[n + i];
    }
    for (int width = 4; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    }
    const double norm = __builtin_sqrt(lanes[0]);
    return 1.0 / (norm < kMinNorm ? kMinNorm : norm);
  }
};

HAX_INLINE double* query_sums(const Inputs& p, const QueryPlan& plan, int64_t slot, int64_t head) {
  return plan.sums + (slot * p.heads + head) * plan.values * p.padded_features();
}

HAX_INLINE double* query_scale(const Inputs& p, const QueryPlan& plan, int64_t s, int64_t head) {
  return plan.scale + (s * p.heads + head) * p.padded_features();
}

// The tokens of one tile and head in order, each time with the MLP's input [k_scale k ; q'].
class TileReader {
 public:
  HAX_INLINE TileReader(const Inputs& p, const QueryPlan& plan, int64_t slot, int64_t head)
      : p_(p), tile_(p.tiles().at(slot)), head_(head), sum_(p) {
    const double* before = query_sums(p, plan, slot, head);
    for (int64_t n = 0; n < sum_.features; ++n) sum_.sum[n] = before[n];
    scale_ = plan.scale ? query_scale(p, plan, tile_.sequence, head) : nullptr;
  }

  HAX_INLINE const SequenceTiles::Tile& tile() const { return tile_; }

  // Moves on to token t, which must be the next.
  HAX_INLINE void advance(int64_t t) { sum_.add(p_, tile_.range, t, head_); }

  // Input of token t, the latest one.
  HAX_INLINE void read(float* to, int64_t t) const {
    simd::load_row(to, p_.k, p_.k.offset(tile_.range.row, tile_.range.begin + t, head_),
                   p_.features);
    for (int64_t n = 0; n < p_.features; ++n) to[n] *= p_.k_scale;
    float* query = to + p_.features;
    if (scale_) {
      for (int64_t n = 0; n < p_.features; ++n) {
        query[n] = static_cast<float>(sum_.sum[n] * scale_[n]);
      }
    } else {
      const double scale = sum_.inverse_norm();
      for (int64_t n = 0; n < p_.features; ++n) query[n] = static_cast<float>(sum_.sum[n] * scale);
    }
  }

 private:
  const Inputs& p_;
  SequenceTiles::Tile tile_;
  int64_t head_;
  QuerySum sum_;
  const double* scale_;
};

// One that passes NaN on.
HAX_INLINE simd::Vec relu(simd::Vec x) { return x < 0.0f ? simd::Vec{} : x; }

// finish(row, column, sum) with vectors of in[row] W for `count` rows (rounded up to whole blocks) and
// all columns. start(column): what the sums begin with.
template <class Start, class Finish>
HAX_INLINE void apply_layer(const Inputs& p, const float* in, const float* W, int64_t count,
                            Start&& start, Finish&& finish) {
  for (int64_t column = 0; column < p.width(); column += kPanel) {
    const float* panel = W + gemm::panel_index(p.width(), 0, column);
    for (int64_t first = 0; first < count; first += kBlockRows) {
      gemm::multiply_block(
          {in + first * p.row(), p.row(), 1}, panel, kPanel, p.width(),
          [&](int, int lane) { return start(column + lane); },
          [&](int r, int lane, simd::Vec sum) { finish(first + r, column + lane, sum); });
    }
  }
}

// out = relu(W in + b)
HAX_INLINE void hidden_layer(const Inputs& p, const float* in, const float* W, const float* b,
                             int64_t count, float* out) {
  apply_layer(
      p, in, W, count, [&](int64_t column) { return simd::load(b + column); },
      [&](int64_t row, int64_t column, simd::Vec sum) {
        simd::store(out + row * p.row() + column, relu(sum));
      });
}

struct Vectors {
  const float *b1, *b2, *W3, *b3;
};

HAX_INLINE Vectors vectors_of(const Inputs& p, const WeightPlan& plan) {
  const int64_t row = p.row();
  return {plan.vectors, plan.vectors + row, plan.vectors + 2 * row, plan.vectors + 3 * row};
}

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax::key_score
