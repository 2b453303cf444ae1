#include "hash/key_score/key_score_cpu.hpp"

namespace hax::key_score {
namespace {

// Of one tile: sum of q, and for the sequence's norm the sums of its own running sum and of the squares.
void tile_sums(const Inputs& p, const QueryPlan& plan, int64_t slot, int64_t head) {
  const SequenceTiles::Tile tile = p.tiles().at(slot);
  if (!p.sequence_norm && tile.end == tile.range.length) return;  // no tile asks for the last one's
  QuerySum running(p);
  const int64_t features = running.features;
  double* out = query_sums(p, plan, slot, head);
  double* first_moment = out + features;
  double* second_moment = out + 2 * features;
  for (int64_t n = 0; n < (plan.values - 1) * features; ++n) first_moment[n] = 0.0;
  for (int64_t t = tile.begin; t < tile.end; ++t) {
    running.add(p, tile.range, t, head);
    if (!p.sequence_norm) continue;
    for (int64_t n = 0; n < features; ++n) {
      first_moment[n] += running.sum[n];
      second_moment[n] += running.sum[n] * running.sum[n];
    }
  }
  for (int64_t n = 0; n < features; ++n) out[n] = running.sum[n];
}

// Of one sequence: turns the tiles' sums into those of all tokens before each tile, and adds up
// sum_t (before + c_t)^2 = T before^2 + 2 before sum_t c_t + sum_t c_t^2 over the tiles. The square of
// `before` is itself part of the preceding tile's sum, so nothing of the total is lost to cancellation.
void sequence_sums(const Inputs& p, const QueryPlan& plan, int64_t s, int64_t head) {
  const SequenceTiles tiles = p.tiles();
  const int64_t length = p.sequences.range(s).length;
  const int64_t features = p.padded_features();
  double before[kMaxFeatures] = {};
  double squares[kMaxFeatures] = {};
  for (int64_t begin = 0, slot = tiles.first_slot(s); begin < length;
       begin += kTileTokens, ++slot) {
    double* sums = query_sums(p, plan, slot, head);
    if (p.sequence_norm) {
      const double tokens =
          static_cast<double>(length - begin < kTileTokens ? length - begin : kTileTokens);
      for (int64_t n = 0; n < features; ++n) {
        squares[n] += tokens * before[n] * before[n] + 2.0 * before[n] * sums[features + n] +
                      sums[2 * features + n];
      }
    }
    for (int64_t n = 0; n < features; ++n) {
      const double own = sums[n];
      sums[n] = before[n];
      before[n] += own;
    }
  }
  if (!p.sequence_norm) return;
  double* scale = query_scale(p, plan, s, head);
  for (int64_t n = 0; n < features; ++n) {
    const double norm = __builtin_sqrt(squares[n]);
    scale[n] = 1.0 / (norm < kMinNorm ? kMinNorm : norm);
  }
}

// Output feature j of a layer into panels of outputs and, if asked, into panels of inputs.
void pack_weight_row(const Inputs& p, const Tensor& W, int64_t j, float* by_output,
                     float* by_input) {
  const int64_t width = p.width();
  float row[2 * kMaxFeatures + gemm::kMaxPanel] = {};
  simd::load_row(row, W, W.offset(j), width);
  for (int64_t i = 0; i < width; ++i) by_output[gemm::panel_index(width, i, j)] = row[i];
  if (!by_input) return;
  for (int64_t i = 0; i < round_up(width, kPanel); ++i) {
    by_input[gemm::panel_index(width, j, i)] = row[i];
  }
}

void pack_weights(const Inputs& p, const WeightPlan& plan, int num_threads) {
  const int64_t width = p.width();
  parallel_for(num_threads, width, [&](int64_t j, int) {
    pack_weight_row(p, p.W1, j, plan.W1, nullptr);
    pack_weight_row(p, p.W2, j, plan.W2, plan.W2_backward);
  });
  for (int64_t j = width; j < round_up(width, kPanel); ++j) {
    for (int64_t i = 0; i < width; ++i) {
      plan.W1[gemm::panel_index(width, i, j)] = 0.0f;
      plan.W2[gemm::panel_index(width, i, j)] = 0.0f;
    }
  }
  simd::zero_row(plan.vectors, 4 * p.row());
  simd::load_row(plan.vectors, p.b1, 0, width);
  simd::load_row(plan.vectors + p.row(), p.b2, 0, width);
  simd::load_row(plan.vectors + 2 * p.row(), p.W3, 0, width);
  simd::load_row(plan.vectors + 3 * p.row(), p.b3, 0, 1);
}

}  // namespace

template <>
void cpu_setup<kCpuLevel>(const Inputs& p, const QueryPlan& query, const WeightPlan& weights,
                          int num_threads) {
  const int64_t tasks = p.tiles().slots() * p.heads;
  if (tasks == 0) return;
  pack_weights(p, weights, num_threads);
  parallel_for(num_threads, tasks,
               [&](int64_t task, int) { tile_sums(p, query, task / p.heads, task % p.heads); });
  parallel_for(num_threads, p.sequences.count() * p.heads,
               [&](int64_t task, int) { sequence_sums(p, query, task / p.heads, task % p.heads); });
}

}  // namespace hax::key_score
