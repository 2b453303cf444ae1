#include "core/parallel.hpp"
#include "hash/gemm.hpp"
#include "hash/ranking_loss/ranking_loss.hpp"

namespace hax::ranking_loss {
namespace {

using gemm::kBlockRows;
using gemm::kPanel;
using simd::IntVec;
using simd::kLanes;
using simd::Vec;

static_assert(kTileTokens % kBlockRows == 0);
constexpr int32_t kNever = std::numeric_limits<int32_t>::max();

// Up to kPanel picks of a row, their keys as the columns of a panel.
struct KeyPanel {
  int64_t count;
  int32_t start[kPanel];  // first token of the tile that doesn't precede the pick; ascending
  float keys[kMaxFeatures * kPanel];
};

void load_keys(const ForwardParams& p, const ForwardPlan& plan, const SequenceTiles::Tile& tile,
               int64_t head, int64_t first, KeyPanel& panel) {
  const int64_t row = tile.sequence * p.heads + head;
  const int64_t left = plan.picks.count[row] - first;
  panel.count = left < kPanel ? left : kPanel;
  for (int64_t c = 0; c < kPanel; ++c) {
    float key[kMaxFeatures] = {};
    panel.start[c] = kNever;
    if (c < panel.count) {
      const int32_t entry = plan.picks.entry[row * p.picks + first + c];
      const int64_t position = *p.pick.at<int32_t>(tile.sequence, head, entry);
      panel.start[c] = position > tile.begin ? static_cast<int32_t>(position - tile.begin) : 0;
      simd::load_row(key, p.k, p.k.offset(tile.range.row, tile.range.begin + position, head),
                     p.features);
    }
    for (int64_t n = 0; n < p.features; ++n) panel.keys[n * kPanel + c] = p.k_scale * key[n];
  }
}

// Adds each pick's sum of sigmoid(q_i . k) over the tile's tokens i that don't precede it. Blocks of
// tokens that all precede the panel's earliest pick are skipped.
void add_attention(const ForwardParams& p, const SequenceTiles::Tile& tile, const float* queries,
                   const KeyPanel& panel, float* sums) {
  constexpr int kVectors = kPanel / kLanes;
  IntVec start[kVectors];
  std::memcpy(start, panel.start, sizeof(start));
  Vec total[kVectors] = {};
  const int64_t count = tile.end - tile.begin;
  for (int64_t first = panel.start[0] / kBlockRows * kBlockRows; first < count;
       first += kBlockRows) {
    gemm::multiply_block(
        {queries + first * query_row(p), query_row(p), 1}, panel.keys, kPanel, p.features,
        [](int, int) { return Vec{}; },
        [&](int r, int lane, Vec product) {
          if (first + r >= count) return;
          const int32_t token = static_cast<int32_t>(first) + r;
          total[lane / kLanes] += start[lane / kLanes] <= token ? simd::sigmoid(product) : Vec{};
        });
  }
  for (int v = 0; v < kVectors; ++v) simd::store(sums + v * kLanes, total[v]);
}

void tile_shares(const ForwardParams& p, const ForwardPlan& plan, int64_t slot, int64_t head,
                 float* queries) {
  const SequenceTiles::Tile tile = p.tiles().at(slot);
  const int64_t picks = plan.picks.count[tile.sequence * p.heads + head];
  double* shares = plan.shares + (slot * p.heads + head) * p.padded_picks();
  for (int64_t i = 0; i < picks; ++i) shares[i] = 0.0;
  if (tile.begin == tile.end || picks == 0) return;
  const int64_t count = tile.end - tile.begin;
  for (int64_t t = 0; t < round_up(count, kBlockRows); ++t) {
    float* query = queries + t * query_row(p);
    if (t < count) {
      simd::load_row(query, p.q,
                     p.q.offset(tile.range.row, tile.range.begin + tile.begin + t, head),
                     p.features);
    } else {
      simd::zero_row(query, p.features);
    }
  }
  KeyPanel panel;
  for (int64_t first = 0; first < picks; first += kPanel) {
    load_keys(p, plan, tile, head, first, panel);
    if (panel.start[0] >= count) break;
    float sums[kPanel];
    add_attention(p, tile, queries, panel, sums);
    for (int64_t c = 0; c < panel.count; ++c) shares[first + c] = sums[c];
  }
}

// Adds the tiles' shares in order.
void combine_shares(const ForwardParams& p, const ForwardPlan& plan, int64_t s, int64_t head) {
  const int64_t row = s * p.heads + head;
  const int64_t first_slot = p.tiles().first_slot(s);
  const int64_t tiles = ceil_div(p.sequences.range(s).length, kTileTokens);
  for (int64_t m = 0; m < p.picks && p.target; ++m) *p.target.at<float>(s, head, m) = 0.0f;
  for (int64_t i = 0; i < plan.picks.count[row]; ++i) {
    double sum = 0.0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      sum += plan.shares[((first_slot + tile) * p.heads + head) * p.padded_picks() + i];
    }
    const float target = static_cast<float>(sum);
    plan.picks.target[row * p.padded_picks() + i] = target;
    if (p.target) *p.target.at<float>(s, head, plan.picks.entry[row * p.picks + i]) = target;
  }
}

}  // namespace

template <>
void cpu_targets<kCpuLevel>(const ForwardParams& p, const ForwardPlan& plan, int num_threads) {
  parallel_for(num_threads, p.tiles().slots() * p.heads, [&](int64_t task, int thread) {
    tile_shares(p, plan, task / p.heads, task % p.heads,
                plan.queries + thread * kTileTokens * query_row(p));
  });
  parallel_for(num_threads, p.rows(),
               [&](int64_t row, int) { combine_shares(p, plan, row / p.heads, row % p.heads); });
}

}  // namespace hax::ranking_loss
