// What tiles of queries and keys are known by, and where it is read from; for activations of 16 bits.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_panels.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_rows.cuh"

namespace hax::sparse_attention {

// What a tile's queries, or keys, are known by.
struct TileMarks {
  int32_t position[kTileRows];
  int32_t lookup[kTileRows];   // of a query: begin; of a key: its rank
  uint32_t extent[kTileRows];  // of a query: end - begin; of a key: its span
  float lse[kTileRows];        // in units of log 2
  float delta[kTileRows];
};
// One of them, by default one that isn't there.
struct TileMark {
  int32_t position = -1;
  int32_t lookup = -1;
  uint32_t extent = 0;
  float lse = INFINITY, delta = 0.0f;
};

// The same as it is read; finished only when it is needed, so that nothing waits for memory before that.
struct RawMark {
  int32_t position = -1;
  int32_t first = 0, second = 0;  // of a query: begin, end; of a key: rank, eviction
  float lse = -INFINITY, delta = 0.0f;
};
__device__ inline TileMark finish_query(const RawMark& raw, int32_t length) {
  TileMark mark;
  if (raw.position < 0) return mark;
  const int32_t end = clamp_index(raw.second, length);
  mark.position = raw.position;
  mark.lookup = clamp_index(raw.first, end);
  mark.extent = static_cast<uint32_t>(end - mark.lookup);
  mark.lse = raw.lse == -INFINITY ? INFINITY : raw.lse * device::kLog2E;  // without keys P is 0
  mark.delta = raw.delta;
  return mark;
}
__device__ inline RawMark read_raw_key(const PatternView& view, int32_t j) {
  RawMark raw;
  if (j < 0) return raw;
  raw.position = j;
  raw.first = view.rank_of(j);
  raw.second = read_eviction(view, j);
  return raw;
}
__device__ inline TileMark finish_key(const RawMark& raw, const PatternView& view) {
  TileMark mark;
  if (raw.position < 0) return mark;
  mark.position = raw.position;
  mark.lookup = raw.first;
  mark.extent = span_of(view, raw.position, raw.second);
  return mark;
}

// Where the rows and numbers of one sequence begin, for a key head and its first query head; head g of the group is g
// heads further on. In shared memory they cost no registers.
template <class T>
struct SequenceRows {
  const T *q, *d_o, *k, *v;
  const float *lse, *delta;
  const int32_t *begin, *end, *order;

  __device__ SequenceRows(const BackwardParams& p, const BackwardLaunch& launch,
                          const Sequences::Range& range, int64_t head) {
    const int64_t h = head * launch.group;
    q = p.q.at<const T>(range.row, range.begin, h);
    d_o = p.d_o.at<const T>(range.row, range.begin, h);
    k = p.k.at<const T>(range.row, range.begin, head);
    v = p.v.at<const T>(range.row, range.begin, head);
    lse = p.lse.at<const float>(range.row, h, range.begin);
    begin = p.pattern.begin.at<const int32_t>(range.row, h, range.begin);
    end = p.pattern.end.at<const int32_t>(range.row, h, range.begin);
    const int64_t first = (range.row * p.q_heads + h) * p.sequences.length + range.begin;
    delta = launch.plan.delta + first;
    order = launch.plan.sorted_queries + first;
  }

  __device__ HeadRows<const T> queries(const BackwardParams& p, const BackwardLaunch& launch,
                                       int g) const {
    return {q + g * p.q.stride[2], p.q, launch.access.q};
  }
  __device__ HeadRows<const T> gradients(const BackwardParams& p, const BackwardLaunch& launch,
                                         int g) const {
    return {d_o + g * p.d_o.stride[2], p.d_o, launch.access.d_o};
  }
  __device__ HeadRows<const T> keys(const BackwardParams& p, const BackwardLaunch& launch) const {
    return {k, p.k, launch.access.k};
  }
  __device__ HeadRows<const T> values(const BackwardParams& p, const BackwardLaunch& launch) const {
    return {v, p.v, launch.access.v};
  }
  __device__ int32_t ordered(const BackwardParams& p, int g, int32_t x) const {
    return __ldg(order + g * p.sequences.length + x);
  }

  // lookups: whether the pass asks what the query looks up.
  __device__ RawMark mark(const BackwardParams& p, const BackwardLaunch& launch, int g, int32_t i,
                          bool lookups) const {
    RawMark raw;
    raw.position = i;
    if (lookups) {
      raw.first = __ldg(begin + g * p.pattern.begin.stride[1] + i * p.pattern.begin.stride[2]);
      raw.second = __ldg(end + g * p.pattern.end.stride[1] + i * p.pattern.end.stride[2]);
    }
    raw.lse = __ldg(lse + g * p.lse.stride[1] + i * p.lse.stride[2]);
    if (!launch.sums_delta) raw.delta = __ldg(delta + g * p.sequences.length + i);
    return raw;
  }
};

}  // namespace hax::sparse_attention
