#include "hash/key_score/key_score_cpu.hpp"

namespace hax::key_score {
namespace {

// W3 . hidden, a row's padding being 0 in W3.
float output_layer(const Inputs& p, const float* hidden, const Vectors& v) {
  simd::Vec sums = {};
  for (int64_t i = 0; i < p.width(); i += simd::kLanes) {
    sums += simd::load(hidden + i) * simd::load(v.W3 + i);
  }
  return simd::sum(sums) + v.b3[0];
}

void score_tile(const ForwardParams& p, const ForwardPlan& plan, int64_t slot, int64_t head,
                float* scratch) {
  TileReader reader(p, plan.query, slot, head);
  const SequenceTiles::Tile& tile = reader.tile();
  const Vectors v = vectors_of(p, plan.weights);
  const int64_t row = p.row();
  float* even = scratch;  // input, then the second hidden layer
  float* odd = scratch + kStep * row;
  simd::zero_row(scratch, 2 * kStep * row);
  for (int64_t t = tile.begin; t < tile.end; t += kStep) {
    const int64_t count = tile.end - t < kStep ? tile.end - t : kStep;
    for (int64_t i = 0; i < count; ++i) {
      reader.advance(t + i);
      reader.read(even + i * row, t + i);
    }
    hidden_layer(p, even, plan.weights.W1, v.b1, count, odd);
    hidden_layer(p, odd, plan.weights.W2, v.b2, count, even);
    for (int64_t i = 0; i < count; ++i) {
      *p.score.at<float>(tile.range.row, head, tile.range.begin + t + i) =
          output_layer(p, even + i * row, v);
    }
  }
}

}  // namespace

template <>
void cpu_forward<kCpuLevel>(const ForwardParams& p, const ForwardPlan& plan, int num_threads) {
  parallel_for(num_threads, p.tiles().slots() * p.heads, [&](int64_t task, int thread) {
    score_tile(p, plan, task / p.heads, task % p.heads,
               plan.scratch + thread * 2 * kStep * p.row());
  });
}

}  // namespace hax::key_score
