#include "attention/sparse_attention/sparse_attention_cpu.hpp"

namespace hax::sparse_attention {
namespace {

// One key head of one sequence.
struct HeadTask {
  const ForwardParams& p;
  const Sequences::Range& range;
  int64_t head;
  HeadRows k, v;
};

void write_row(const HeadTask& t, int64_t i, int64_t query_head, float* output,
               const Softmax& softmax, bool empty) {
  const float scale = empty ? 0.0f : 1.0f / softmax.sum;
  for (int64_t c = 0; c < t.v.width; c += kLanes) {
    simd::store(output + c, simd::load(output + c) * scale);
  }
  store_head_row(t.p.o, t.range, i, query_head, output);
  if (!t.p.lse) return;
  *element(t.p.lse, t.range, i, query_head) =
      empty ? -std::numeric_limits<float>::infinity() : softmax.log_sum_exp();
}

// Adds the keys of one piece to a row.
HAX_INLINE void attend_piece(const HeadTask& t, const float* query, const KeyPiece& piece,
                             Softmax& softmax, float* output) {
  float scores[kListKeys + kLanes];
  dot_rows(scores, query, t.k, piece.keys, piece.count);
  softmax.take(scores, piece.count, output, t.v.width);
  add_rows(output, scores, t.v, piece.keys, piece.count);
}

void attend_lists(const HeadTask& t, int64_t first, int64_t last, int32_t* active) {
  KeyLister lister(t.p.pattern, t.range, t.head, active);
  KeyPiece piece;
  float query[kMaxWidth], output[kMaxWidth];
  lister.start(first);
  for (int64_t i = first; i < last; ++i) {
    lister.advance(i);
    for (int64_t h = t.head * t.p.group(); h < (t.head + 1) * t.p.group(); ++h) {
      load_query(query, t.p, t.range, i, h, t.k.width);
      simd::zero_row(output, t.v.width);
      Softmax softmax;
      bool empty = true;
      lister.select(h);
      while (lister.next(piece)) {
        attend_piece(t, query, piece, softmax, output);
        empty = false;
      }
      write_row(t, i, h, output, softmax, empty);
    }
  }
}

// Queries [first, last) of one query head under the full pattern: keys before `base` in tiles, the others
// query by query.
void attend_tile(const HeadTask& t, int64_t base, int64_t first, int64_t last, int64_t query_head,
                 float* scratch) {
  float* const queries = scratch;
  float* const outputs = queries + kTileQueries * t.k.width;
  float* const scores = outputs + kTileQueries * t.v.width;
  float* const keys = scores + kTileQueries * kTileKeys;
  const int64_t count = last - first;
  Softmax softmax[kTileQueries];
  for (int64_t r = 0; r < count; ++r) {
    load_query(queries + r * t.k.width, t.p, t.range, first + r, query_head, t.k.width);
  }
  simd::zero_row(outputs, count * t.v.width);
  for (int64_t j = 0; j < base; j += kTileKeys) {
    const int n = static_cast<int>(base - j < kTileKeys ? base - j : kTileKeys);
    transpose_rows(keys, {t.k[j], t.k.stride}, n, t.p.d_qk);
    simd::zero_row(scores, count * kTileKeys);
    multiply_add({scores, kTileKeys}, {queries, t.k.width, 1}, {keys, kTileKeys}, count,
                 whole_vectors(n), t.p.d_qk);
    for (int64_t r = 0; r < count; ++r) {
      softmax[r].take(scores + r * kTileKeys, n, outputs + r * t.v.width, t.v.width);
    }
    multiply_add({outputs, t.v.width}, {scores, kTileKeys, 1}, {t.v[j], t.v.stride}, count,
                 t.v.width, n);
  }
  KeyPiece piece;
  for (int64_t r = 0; r < count; ++r) {
    piece.fill_range(base, first + r + 1);
    float* const output = outputs + r * t.v.width;
    attend_piece(t, queries + r * t.k.width, piece, softmax[r], output);
    write_row(t, first + r, query_head, output, softmax[r], false);
  }
}

void attend_full(const HeadTask& t, int64_t first, int64_t last, float* scratch) {
  for_each_tile(first, last, [&](int64_t base, int64_t begin, int64_t end) {
    for (int64_t h = t.head * t.p.group(); h < (t.head + 1) * t.p.group(); ++h) {
      attend_tile(t, base, begin, end, h, scratch);
    }
  });
}

}  // namespace

template <>
void cpu_forward<kCpuLevel>(const ForwardParams& p, const ForwardPlan& plan, int num_threads) {
  const int64_t tiles = (p.sequences.length + plan.tile_tokens - 1) / plan.tile_tokens;
  const Scratch& scratch = plan.scratch;
  for_each_round(plan.rounds, [&](int64_t first_head, int64_t heads) {
    copy_keys_and_values(p, plan.k, plan.v, first_head, heads, num_threads);
    parallel_for(scratch.threads, heads * tiles, [&](int64_t task, int thread) {
      const RoundHead h = round_head(p, first_head, task / tiles);
      const int64_t begin = task % tiles * plan.tile_tokens;
      const int64_t left = p.sequences.length - begin;
      const int64_t end = begin + (left < plan.tile_tokens ? left : plan.tile_tokens);
      p.sequences.for_each_piece(
          h.row, begin, end,
          [&](int64_t, const Sequences::Range& range, int64_t first, int64_t last) {
            const HeadTask t = {p, range, h.head, head_rows(plan.k, h, range.begin),
                                head_rows(plan.v, h, range.begin)};
            if (p.pattern.has(HAX_PATTERN_FULL)) {
              attend_full(t, first, last, scratch.tiles.of(thread));
            } else {
              attend_lists(t, first, last, scratch.active.of(thread));
            }
          });
    });
  });
}

}  // namespace hax::sparse_attention
