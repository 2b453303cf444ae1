#include "attention/sparse_attention/sparse_attention_cpu.hpp"

namespace hax::sparse_attention {
namespace {

constexpr int kPieceKeys = 64;  // whose rows and gradients stay in the first cache between uses

// One key head of one sequence. Rows without data aren't asked for.
struct HeadTask {
  const BackwardParams& p;
  const Sequences::Range& range;
  int64_t head;
  HeadRows k, v;
  HeadRows dk, dv;

  HAX_INLINE bool needs_scores_gradient() const { return p.dq || dk.data; }
};

// One query: its row of q (scaled), of d_o, and what its scores' gradients need.
struct QueryRow {
  float* query;
  float* d_o;
  float* dq;  // sum, without the attention's scale
  float lse;
  float delta;  // d_o . o - dlse
};

HAX_INLINE void load_query_row(const HeadTask& t, QueryRow& row, int64_t i, int64_t query_head) {
  load_query(row.query, t.p, t.range, i, query_head, t.k.width);
  load_padded(row.d_o, t.p.d_o, t.range, i, query_head, t.v.width);
  simd::zero_row(row.dq, t.k.width);
  float output[kMaxWidth];
  load_padded(output, t.p.o, t.range, i, query_head, t.v.width);
  Vec sums = {};
  for (int64_t c = 0; c < t.v.width; c += kLanes) {
    sums += simd::load(row.d_o + c) * simd::load(output + c);
  }
  row.delta = simd::sum(sums);
  if (t.p.dlse) row.delta -= *element(t.p.dlse, t.range, i, query_head);
  row.lse = *element(t.p.lse, t.range, i, query_head);
}

void write_dq(const HeadTask& t, int64_t i, int64_t query_head, float* dq) {
  if (!t.p.dq) return;
  for (int64_t c = 0; c < t.k.width; c += kLanes) {
    simd::store(dq + c, simd::load(dq + c) * t.p.scale);
  }
  store_head_row(t.p.dq, t.range, i, query_head, dq);
}

// scores become the softmax weights.
HAX_INLINE void weigh(float* scores, int64_t count, float lse) {
  for (int64_t k = 0; k < count; k += kLanes) {
    simd::store(scores + k, simd::exp(simd::load(scores + k) - lse));
  }
}

// dweights become the gradients of the scores.
HAX_INLINE void pull_through_softmax(float* dweights, const float* weights, int64_t count,
                                     float delta) {
  for (int64_t k = 0; k < count; k += kLanes) {
    simd::store(dweights + k, simd::load(weights + k) * (simd::load(dweights + k) - delta));
  }
}

// Gradients through the keys of one piece.
HAX_INLINE void add_piece(const HeadTask& t, const QueryRow& row, const KeyPiece& piece) {
  float weights[kListKeys + kLanes], dscores[kListKeys + kLanes];
  dot_rows(weights, row.query, t.k, piece.keys, piece.count);
  weigh(weights, piece.count, row.lse);
  if (t.needs_scores_gradient()) {
    dot_rows(dscores, row.d_o, t.v, piece.keys, piece.count);
    pull_through_softmax(dscores, weights, piece.count, row.delta);
    if (t.p.dq) add_rows(row.dq, dscores, t.k, piece.keys, piece.count);
    if (t.dk.data) scatter_rows(t.dk, piece.keys, piece.count, dscores, row.query);
  }
  if (t.dv.data) scatter_rows(t.dv, piece.keys, piece.count, weights, row.d_o);
}

void backward_lists(const HeadTask& t, int64_t first, int64_t last, int32_t* active) {
  KeyLister lister(t.p.pattern, t.range, t.head, active);
  KeyPiece piece;
  float query[kMaxWidth], d_o[kMaxWidth], dq[kMaxWidth];
  QueryRow row = {query, d_o, dq, 0.0f, 0.0f};
  lister.start(first);
  for (int64_t i = first; i < last; ++i) {
    lister.advance(i);
    for (int64_t h = t.head * t.p.group(); h < (t.head + 1) * t.p.group(); ++h) {
      lister.select(h);
      if (lister.next(piece, kPieceKeys)) {
        load_query_row(t, row, i, h);
        do {
          add_piece(t, row, piece);
        } while (lister.next(piece, kPieceKeys));
      } else {
        simd::zero_row(dq, t.k.width);
      }
      write_dq(t, i, h, dq);
    }
  }
}

struct Tile {
  float *queries, *d_os, *dqs;  // (kTileQueries, width)
  float *weights, *dscores;     // (kTileQueries, kTileKeys)
  float *keys, *values;         // transposed, (width, kTileKeys)

  Tile(const HeadTask& t, float* scratch) {
    queries = scratch;
    dqs = queries + kTileQueries * t.k.width;
    d_os = dqs + kTileQueries * t.k.width;
    weights = d_os + kTileQueries * t.v.width;
    dscores = weights + kTileQueries * kTileKeys;
    keys = dscores + kTileQueries * kTileKeys;
    values = keys + kTileKeys * t.p.d_qk;
  }
};

// Gradients through n keys from j on, which all of the `count` queries attend.
void add_key_tile(const HeadTask& t, const Tile& tile, const QueryRow* rows, int64_t count,
                  int64_t j, int64_t n) {
  const int64_t wide = whole_vectors(n);
  transpose_rows(tile.keys, {t.k[j], t.k.stride}, n, t.p.d_qk);
  simd::zero_row(tile.weights, count * kTileKeys);
  multiply_add({tile.weights, kTileKeys}, {tile.queries, t.k.width, 1}, {tile.keys, kTileKeys},
               count, wide, t.p.d_qk);
  for (int64_t r = 0; r < count; ++r) weigh(tile.weights + r * kTileKeys, n, rows[r].lse);
  if (t.dv.data) {
    multiply_add({t.dv[j], t.dv.stride}, {tile.weights, 1, kTileKeys}, {tile.d_os, t.v.width}, n,
                 t.v.width, count);
  }
  if (!t.needs_scores_gradient()) return;
  transpose_rows(tile.values, {t.v[j], t.v.stride}, n, t.p.d_v);
  simd::zero_row(tile.dscores, count * kTileKeys);
  multiply_add({tile.dscores, kTileKeys}, {tile.d_os, t.v.width, 1}, {tile.values, kTileKeys},
               count, wide, t.p.d_v);
  for (int64_t r = 0; r < count; ++r) {
    pull_through_softmax(tile.dscores + r * kTileKeys, tile.weights + r * kTileKeys, n,
                         rows[r].delta);
  }
  if (t.p.dq) {
    multiply_add({tile.dqs, t.k.width}, {tile.dscores, kTileKeys, 1}, {t.k[j], t.k.stride}, count,
                 t.k.width, n);
  }
  if (t.dk.data) {
    multiply_add({t.dk[j], t.dk.stride}, {tile.dscores, 1, kTileKeys}, {tile.queries, t.k.width}, n,
                 t.k.width, count);
  }
}

// Queries [first, last) of one query head under the full pattern: keys before `base` in tiles, the others
// query by query.
void backward_tile(const HeadTask& t, const Tile& tile, int64_t base, int64_t first, int64_t last,
                   int64_t query_head) {
  const int64_t count = last - first;
  QueryRow rows[kTileQueries];
  for (int64_t r = 0; r < count; ++r) {
    rows[r] = {tile.queries + r * t.k.width, tile.d_os + r * t.v.width, tile.dqs + r * t.k.width,
               0.0f, 0.0f};
    load_query_row(t, rows[r], first + r, query_head);
  }
  for (int64_t j = 0; j < base; j += kTileKeys) {
    add_key_tile(t, tile, rows, count, j, base - j < kTileKeys ? base - j : kTileKeys);
  }
  KeyPiece piece;
  for (int64_t r = 0; r < count; ++r) {
    piece.fill_range(base, first + r + 1);
    add_piece(t, rows[r], piece);
    write_dq(t, first + r, query_head, rows[r].dq);
  }
}

void backward_full(const HeadTask& t, int64_t first, int64_t last, float* scratch) {
  const Tile tile(t, scratch);
  for_each_tile(first, last, [&](int64_t base, int64_t begin, int64_t end) {
    for (int64_t h = t.head * t.p.group(); h < (t.head + 1) * t.p.group(); ++h) {
      backward_tile(t, tile, base, begin, end, h);
    }
  });
}

// Queries of a sequence before those of part `part`.
HAX_INLINE int64_t part_begin(int64_t length, int64_t part, int64_t parts) {
  return length / parts * part + length % parts * part / parts;
}

// Where a part of the queries sums the gradient of its sequence's keys or values.
HeadRows sum_rows(const Rows& sum, const Rounds& rounds, const RoundHead& h, int64_t part,
                  int64_t begin) {
  if (sum.width == 0) return {nullptr, 0, 0};
  return head_rows(sum, {h.row, h.head, part * rounds.size + h.slot}, begin);
}

void zero_rows(const HeadRows& rows, int64_t count) {
  if (!rows.data) return;
  for (int64_t j = 0; j < count; ++j) simd::zero_row(rows[j], rows.width);
}

void run_task(const BackwardParams& p, const BackwardPlan& plan, const Sequences::Range& range,
              const RoundHead& h, int64_t part, int thread) {
  if (range.length == 0) return;
  const HeadTask t = {p,
                      range,
                      h.head,
                      head_rows(plan.k, h, range.begin),
                      head_rows(plan.v, h, range.begin),
                      sum_rows(plan.dk, plan.rounds, h, part, range.begin),
                      sum_rows(plan.dv, plan.rounds, h, part, range.begin)};
  const int64_t first = part_begin(range.length, part, plan.parts);
  const int64_t last = part_begin(range.length, part + 1, plan.parts);
  zero_rows(t.dk, last);
  zero_rows(t.dv, last);
  if (p.pattern.has(HAX_PATTERN_FULL)) {
    backward_full(t, first, last, plan.scratch.tiles.of(thread));
  } else {
    backward_lists(t, first, last, plan.scratch.active.of(thread));
  }
}

// Writes the gradient of keys [first, last) of a sequence, which its parts have summed in the workspace.
void write_sum(const Rows& sum, const BackwardPlan& plan, const Tensor& output, const RoundHead& h,
               const Sequences::Range& range, int64_t first, int64_t last) {
  if (!sum.copied) return;
  float total[kMaxWidth];
  for (int64_t j = first; j < last; ++j) {
    simd::zero_row(total, sum.width);
    for (int64_t part = 0; part < plan.parts; ++part) {
      if (part_begin(range.length, part + 1, plan.parts) <= j) continue;
      const float* const share = sum_rows(sum, plan.rounds, h, part, range.begin)[j];
      for (int64_t c = 0; c < sum.width; c += kLanes) {
        simd::store(total + c, simd::load(total + c) + simd::load(share + c));
      }
    }
    store_head_row(output, range, j, h.head, total);
  }
}

}  // namespace

template <>
void cpu_backward<kCpuLevel>(const BackwardParams& p, const BackwardPlan& plan, int num_threads) {
  const int64_t streams = p.sequences.packed() ? p.sequences.count() : 1;
  for_each_round(plan.rounds, [&](int64_t first_head, int64_t heads) {
    copy_keys_and_values(p, plan.k, plan.v, first_head, heads, num_threads);
    // Late parts first: they have the most keys.
    parallel_for(plan.scratch.threads, plan.parts * heads * streams, [&](int64_t task, int thread) {
      const RoundHead h = round_head(p, first_head, task / streams % heads);
      const Sequences::Range range = p.sequences.range(h.row + task % streams);
      run_task(p, plan, range, h, plan.parts - 1 - task / streams / heads, thread);
    });
    if (!plan.dk.copied && !plan.dv.copied) return;
    for_each_stretch(
        p, first_head, heads, num_threads, [&](const RoundHead& h, int64_t begin, int64_t end) {
          p.sequences.for_each_piece(
              h.row, begin, end,
              [&](int64_t, const Sequences::Range& range, int64_t first, int64_t last) {
                write_sum(plan.dk, plan, p.dk, h, range, first, last);
                write_sum(plan.dv, plan, p.dv, h, range, first, last);
              });
        });
  });
}

}  // namespace hax::sparse_attention
