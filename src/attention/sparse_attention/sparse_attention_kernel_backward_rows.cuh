// Backward's view of rows and marks: what a tile knows of its queries and keys, and how results are written.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_memory.cuh"
#include "device/math.cuh"

namespace hax::sparse_attention {

// Which rows a block keeps, or how it comes to those it streams.
enum class BackwardPass {
  neighbours,  // a tile of neighbours meets all that its spans (or any pattern, in short sequences) may reach
  order,    // LSH: neighbours in key_order meet their queries, and the other way round
  stretch,  // the keys whose spans touch a stretch of queries
  direct,   // the keys that are summed in one go
};

struct BackwardLaunch {
  BackwardPass pass;
  PairRule rule;
  bool add;                    // to what the output holds
  bool short_only, long_only;  // sequences up to, or longer than, plan.dense_length
  bool sums_delta;             // the kernel itself does, and the plan's isn't written
  int32_t places;              // for tiles of one row
  int32_t group;               // query heads of a key head
  BackwardAccess access;
  CudaBackwardPlan plan;

  __device__ bool takes(int64_t length) const {
    return !(short_only && length > plan.dense_length) &&
           !(long_only && length <= plan.dense_length);
  }
};

// What a block works on: heads vary fastest.
struct BlockPlace {
  uint32_t head, place, row;
  __device__ BlockPlace(uint32_t block, int64_t heads, int32_t places) {
    const auto h = static_cast<uint32_t>(heads), n = static_cast<uint32_t>(places);
    head = block % h;
    place = block / h % n;
    row = block / h / n;
  }
};

__device__ inline PatternView view_of(const BackwardParams& p, const CudaBackwardPlan& plan,
                                      const Sequences::Range& range, int64_t head) {
  PatternView view(p.pattern, range, head);
  if (plan.indices.key_rank) {
    view.rank =
        plan.indices.key_rank + (range.row * p.k_heads + head) * p.sequences.length + range.begin;
  }
  return view;
}

// Where the chunks of a sequence's key head begin in chunk_reach.
__device__ inline int64_t reach_place(const Problem& p, int64_t key_row, const TileRange& tile) {
  const Tiling chunks{kChunkKeys};
  return key_row * chunks.places(p.sequences) +
         chunks.first_place(p.sequences, tile.s, tile.range.begin);
}

// What marks hold of one query or key.
struct QueryMark {
  Query query;
  float lse = 0.0f, delta = 0.0f;
};

// Where a query head's rows and numbers begin, for one sequence. In shared memory they cost no registers.
template <class T>
struct QueryHead {
  const T *q, *d_o;
  const float *lse, *delta;
  const int32_t *begin, *end;
  const int32_t* order;  // of the sorted queries

  __device__ QueryHead(const BackwardParams& p, const CudaBackwardPlan& plan,
                       const Sequences::Range& range, int64_t h)
      : q(p.q.at<const T>(range.row, range.begin, h)),
        d_o(p.d_o.at<const T>(range.row, range.begin, h)),
        lse(p.lse.at<const float>(range.row, h, range.begin)),
        begin(p.pattern.begin.at<const int32_t>(range.row, h, range.begin)),
        end(p.pattern.end.at<const int32_t>(range.row, h, range.begin)) {
    const int64_t first = (range.row * p.q_heads + h) * p.sequences.length + range.begin;
    delta = plan.delta + first;
    order = plan.sorted_queries + first;
  }

  // i < 0: not there.
  __device__ QueryMark mark(const BackwardParams& p, int32_t length, int32_t i) const {
    QueryMark mark;
    if (i < 0) return mark;
    mark.query.position = i;
    if (p.pattern.key_order) {
      mark.query.end = clamp_index(end[i * p.pattern.end.stride[2]], length);
      mark.query.begin = clamp_index(begin[i * p.pattern.begin.stride[2]], mark.query.end);
    }
    mark.lse = lse[i * p.lse.stride[2]];
    mark.delta = delta[i];
    return mark;
  }
};

template <int N>
__device__ void store_mark(QueryMarks<N>& marks, int n, const QueryMark& mark) {
  marks.position[n] = mark.query.position;
  marks.begin[n] = mark.query.begin;
  marks.count[n] = static_cast<uint32_t>(mark.query.end - mark.query.begin);
  // Without keys every P is 0.
  marks.lse[n] = mark.lse == -INFINITY ? INFINITY : mark.lse * device::kLog2E;
  marks.delta[n] = mark.delta;
}

// PatternView's span and reach for an eviction that has been read already.
__device__ inline int32_t read_eviction(const PatternView& view, int32_t j) {
  return view.eviction ? __ldg(view.eviction + j * view.eviction_stride) : 0;
}
__device__ inline uint32_t span_of(const PatternView& view, int32_t j, int32_t eviction) {
  const bool some_endless = view.full || view.sink > 0 || view.dilation > 0;
  if (some_endless && view.endless(j)) return kEndless;
  const int32_t life = clamp_index(eviction, view.length) - j;
  return max(view.window, static_cast<uint32_t>(max(life, 0)));
}
__device__ inline int32_t reach_of(const PatternView& view, int32_t j, int32_t eviction) {
  const int64_t end = int64_t{j} + span_of(view, j, eviction);
  return end < view.length ? static_cast<int32_t>(end) : view.length;
}

__device__ inline Key read_key(const PatternView& view, int32_t j) {
  if (j < 0) return {};
  return {j, view.span(j), view.rank_of(j)};
}

template <int N>
__device__ void store_mark(KeyMarks<N>& marks, int n, const Key& key) {
  marks.position[n] = key.position;
  marks.span[n] = key.span;
  marks.rank[n] = key.rank;
}

// Neighbours of an output's row; y only where the row goes on.
template <class T>
__device__ void store_pair(const TileRowsView<T>& rows, bool add, int32_t position, int column,
                           float x, float y) {
  if (position < 0 || column >= rows.width) return;
  T* const at = rows.data + position * rows.stride + column * rows.element_stride;
  if (rows.vectors) {
    float pair[2] = {x, y};
    if (add) {
      const auto held = *reinterpret_cast<const device::Packed<T, 2>*>(at);
      pair[0] += device::to_float(held.values[0]);
      pair[1] += device::to_float(held.values[1]);
    }
    device::store_packed<T, 2>(at, pair);
    return;
  }
  at[0] = device::from_float<T>(add ? x + device::to_float(at[0]) : x);
  if (column + 1 >= rows.width) return;
  T& next = at[rows.element_stride];
  next = device::from_float<T>(add ? y + device::to_float(next) : y);
}

}  // namespace hax::sparse_attention
