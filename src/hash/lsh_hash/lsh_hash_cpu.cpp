#include "core/parallel.hpp"
#include "hash/gemm.hpp"
#include "hash/lsh_hash/lsh_hash.hpp"

namespace hax::lsh_hash {
namespace {

using gemm::kBlockRows;
using gemm::kPanel;
using simd::kLanes;

constexpr int64_t kStep = 48;  // tokens whose rows are held at a time
constexpr double kMinNorm = 1e-12;
static_assert(kStep % kBlockRows == 0 && kTileTokens % kStep == 0);

using Rows = float[kStep][kMaxFeatures];
using Projections = float[kStep][kMaxColumns];

// Mean and sum of squared deviations from it of each feature over `count` tokens, updated without
// cancellation (Welford 1962) and merged pairwise (Chan, Golub, LeVeque 1983).
struct Moments {
  int64_t count;
  int64_t features;  // padded
  double mean[kMaxFeatures];
  double squares[kMaxFeatures];

  explicit Moments(int64_t padded_features) : count(0), features(padded_features) {
    for (int64_t n = 0; n < features; ++n) mean[n] = squares[n] = 0.0;
  }

  void add(const float* x) {
    const double weight = 1.0 / static_cast<double>(++count);
    for (int64_t n = 0; n < features; ++n) {
      const double deviation = x[n] - mean[n];
      mean[n] += deviation * weight;
      squares[n] += deviation * (x[n] - mean[n]);
    }
  }

  void merge(const double* other, int64_t other_count) {
    if (other_count == 0) return;
    const double a = static_cast<double>(count), b = static_cast<double>(other_count);
    for (int64_t n = 0; n < features; ++n) {
      const double gap = other[n] - mean[n];
      mean[n] += gap * (b / (a + b));
      squares[n] += other[features + n] + gap * gap * (a * b / (a + b));
    }
    count += other_count;
  }

  void save(double* to) const {
    for (int64_t n = 0; n < features; ++n) {
      to[n] = mean[n];
      to[features + n] = squares[n];
    }
  }

  void restore(const double* from, int64_t tokens) {
    count = tokens;
    for (int64_t n = 0; n < features; ++n) {
      mean[n] = from[n];
      squares[n] = from[features + n];
    }
  }

  void normalize(float* x) const {
    for (int64_t n = 0; n < features; ++n) {
      const double norm = __builtin_sqrt(squares[n]);
      x[n] = static_cast<float>((x[n] - mean[n]) / (norm < kMinNorm ? kMinNorm : norm));
    }
  }
};

double* moments_of(const Params& p, const Plan& plan, int64_t slot, int64_t head) {
  return plan.moments + (slot * p.heads + head) * 2 * p.padded_features();
}

// A token's features in fp32, 0 up to the padded length.
void load_token(float* row, const Params& p, const Sequences::Range& range, int64_t t,
                int64_t head) {
  simd::load_row(row, p.x, p.x.offset(range.row, range.begin + t, head), p.features);
  for (int64_t n = p.features; n < p.padded_features(); ++n) row[n] = 0.0f;
}

void tile_moments(const Params& p, const Plan& plan, int64_t slot, int64_t head) {
  const SequenceTiles::Tile tile = p.tiles().at(slot);
  Moments moments(p.padded_features());
  float row[kMaxFeatures];
  for (int64_t t = tile.begin; t < tile.end; ++t) {
    load_token(row, p, tile.range, t, head);
    moments.add(row);
  }
  moments.save(moments_of(p, plan, slot, head));
}

void combine_moments(const Params& p, const Plan& plan, int64_t s, int64_t head) {
  const SequenceTiles tiles = p.tiles();
  const int64_t length = p.sequences.range(s).length;
  Moments moments(p.padded_features());
  double before[2 * kMaxFeatures];
  for (int64_t begin = 0, slot = tiles.first_slot(s); begin < length;
       begin += kTileTokens, ++slot) {
    double* own = moments_of(p, plan, slot, head);
    moments.save(before);
    moments.merge(own, length - begin < kTileTokens ? length - begin : kTileTokens);
    if (p.statistics == HAX_LSH_STATISTICS_CAUSAL) {
      std::memcpy(own, before, static_cast<size_t>(2 * moments.features) * sizeof(double));
    }
  }
  if (p.statistics == HAX_LSH_STATISTICS_SEQUENCE && length > 0) {
    moments.save(moments_of(p, plan, tiles.first_slot(s), head));
  }
}

void project(const Params& p, const Plan& plan, const Rows& rows, int64_t count, Projections& out) {
  for (int64_t column = 0; column < p.bits; column += kPanel) {
    const float* panel = plan.R_panels + gemm::panel_index(p.features, 0, column);
    for (int64_t first = 0; first < count; first += kBlockRows) {
      gemm::multiply_block(
          {rows[first], kMaxFeatures, 1}, panel, kPanel, p.features,
          [](int, int) { return simd::Vec{}; },
          [&](int r, int lane, simd::Vec sums) {
            simd::store(&out[first + r][column + lane], sums);
          });
    }
  }
}

// Bits beyond p.bits come from columns of zeros and are 0.
int64_t code_of(const Params& p, const float* projection) {
  uint64_t code = 0;
  for (int64_t column = 0; column < p.bits; column += kLanes) {
    const simd::IntVec positive = simd::load(projection + column) > simd::Vec{};
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint32_t>(positive[i]) & (1u << i);
    code |= uint64_t{bits} << column;
  }
  return static_cast<int64_t>(code);
}

void hash_tile(const Params& p, const Plan& plan, int64_t slot, int64_t head) {
  const SequenceTiles::Tile tile = p.tiles().at(slot);
  if (tile.begin == tile.end) return;
  const bool causal = p.statistics == HAX_LSH_STATISTICS_CAUSAL;
  Moments moments(p.padded_features());
  if (causal) {
    moments.restore(moments_of(p, plan, slot, head), tile.begin);
  } else if (p.statistics == HAX_LSH_STATISTICS_SEQUENCE) {
    const int64_t first = p.tiles().first_slot(tile.sequence);
    moments.restore(moments_of(p, plan, first, head), tile.range.length);
  }
  Rows rows = {};
  Projections projections;
  for (int64_t t = tile.begin; t < tile.end; t += kStep) {
    const int64_t count = tile.end - t < kStep ? tile.end - t : kStep;
    for (int64_t i = 0; i < count; ++i) {
      load_token(rows[i], p, tile.range, t + i, head);
      if (causal) moments.add(rows[i]);
      if (p.statistics != HAX_LSH_STATISTICS_NONE) moments.normalize(rows[i]);
    }
    project(p, plan, rows, count, projections);
    for (int64_t i = 0; i < count; ++i) {
      *p.code.at<int64_t>(tile.range.row, head, tile.range.begin + t + i) =
          code_of(p, projections[i]);
    }
  }
}

void pack_R(const Params& p, const Plan& plan) {
  for (int64_t n = 0; n < p.features; ++n) {
    float row[kMaxColumns] = {};
    simd::load_row(row, p.R, p.R.offset(n), p.bits);
    for (int64_t j = 0; j < round_up(p.bits, kPanel); ++j) {
      plan.R_panels[gemm::panel_index(p.features, n, j)] = row[j];
    }
  }
}

}  // namespace

template <>
void cpu_forward<kCpuLevel>(const Params& p, const Plan& plan, int num_threads) {
  const int64_t tile_tasks = p.tiles().slots() * p.heads;
  if (tile_tasks == 0) return;
  pack_R(p, plan);
  if (p.statistics != HAX_LSH_STATISTICS_NONE) {
    parallel_for(num_threads, tile_tasks,
                 [&](int64_t task, int) { tile_moments(p, plan, task / p.heads, task % p.heads); });
    parallel_for(num_threads, p.sequences.count() * p.heads, [&](int64_t task, int) {
      combine_moments(p, plan, task / p.heads, task % p.heads);
    });
  }
  parallel_for(num_threads, tile_tasks,
               [&](int64_t task, int) { hash_tile(p, plan, task / p.heads, task % p.heads); });
}

}  // namespace hax::lsh_hash
