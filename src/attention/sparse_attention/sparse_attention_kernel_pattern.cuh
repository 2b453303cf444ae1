// The pattern as the kernels see it. Apart from LSH every key j serves the queries [j, j + span): the span is endless
// for full, sink and dilated keys, else the window or what is left until eviction, whichever is longer. So a
// pair of query i and key j is selected if
//   own: unsigned(i - j) < span    or    lsh: begin_i <= rank_j < end_i and j <= i.
#pragma once

#include "attention/sparse_attention/sparse_attention.hpp"

namespace hax::sparse_attention {

inline constexpr uint32_t kEndless = 0x7fffffff;

// What a key needs for the test; one that isn't there has position -1 and passes no test.
struct Key {
  int32_t position = -1;
  uint32_t span = 0;
  int32_t rank = -1;  // in key_order
};

// The same of a query; one that isn't there has position -1.
struct Query {
  int32_t position = -1;
  int32_t begin = 0, end = 0;  // its keys in key_order
};

// Which pairs a step of keys selects; each key counts once.
enum class Rule {
  own,
  lsh,
  own_not_lsh,  // own ones that lsh doesn't select
};

// Without branches.
template <Rule rule>
__device__ bool selects(const Query& query, const Key& key) {
  const bool own = static_cast<uint32_t>(query.position - key.position) < key.span;
  if constexpr (rule == Rule::own) return own;
  const bool lsh = static_cast<uint32_t>(key.rank - query.begin) <
                   static_cast<uint32_t>(query.end - query.begin);
  if constexpr (rule == Rule::lsh) return lsh & (key.position <= query.position);
  return own & !lsh;
}

__device__ inline int32_t clamp_index(int32_t value, int64_t high) {
  return value < 0 ? 0 : value > high ? static_cast<int32_t>(high) : value;
}

// One key head of one sequence. Index tensors are read where they lie; what they hold is clamped, so that wrong
// contents give wrong results and no more.
struct PatternView {
  const int32_t* order = nullptr;  // key_order
  const int32_t* eviction = nullptr;
  const int32_t* rank = nullptr;  // compact
  int64_t order_stride = 0, eviction_stride = 0;
  int32_t length;
  bool full;
  bool uniform;  // every key's span is the window
  int32_t sink;
  uint32_t window, dilation;  // 0 without

  __device__ PatternView(const Pattern& p, const Sequences::Range& range, int64_t k_head)
      : length(static_cast<int32_t>(range.length)),
        full(p.has(HAX_PATTERN_FULL)),
        uniform(!p.has(HAX_PATTERN_FULL | HAX_PATTERN_SINK | HAX_PATTERN_DILATED |
                       HAX_PATTERN_KEY_SELECTION)),
        sink(static_cast<int32_t>(p.sink)),
        window(static_cast<uint32_t>(p.window)),
        dilation(static_cast<uint32_t>(p.dilation)) {
    if (p.key_order) {
      order = p.key_order.at<const int32_t>(range.row, k_head, range.begin);
      order_stride = p.key_order.stride[2];
    }
    if (p.eviction) {
      eviction = p.eviction.at<const int32_t>(range.row, k_head, range.begin);
      eviction_stride = p.eviction.stride[2];
    }
  }

  __device__ bool endless(int32_t j) const {
    return full || j < sink || (dilation > 0 && static_cast<uint32_t>(j + 1) % dilation == 0);
  }
  // Queries that the key serves because of its eviction.
  __device__ uint32_t life(int32_t j) const {
    if (!eviction) return 0;
    const int32_t evicted = clamp_index(eviction[j * eviction_stride], length);
    return evicted > j ? static_cast<uint32_t>(evicted - j) : 0;
  }
  __device__ uint32_t span(int32_t j) const {
    if (uniform) return window;
    return endless(j) ? kEndless : max(window, life(j));
  }
  // Where the queries end that attend key j apart from LSH; at or before j if there are none.
  __device__ int32_t reach(int32_t j) const {
    const int64_t end = int64_t{j} + span(j);
    return end < length ? static_cast<int32_t>(end) : length;
  }
  __device__ int32_t rank_of(int32_t j) const { return rank ? __ldg(rank + j) : -1; }
  __device__ int32_t ordered(int32_t p) const {
    return clamp_index(order[p * order_stride], length - 1);
  }
};

__device__ inline Query read_query(const Pattern& p, const Sequences::Range& range, int32_t i,
                                   int64_t q_head) {
  Query q;
  q.position = i;
  if (!p.key_order) return q;
  q.end = clamp_index(*p.end.at<const int32_t>(range.row, q_head, range.begin + i), range.length);
  q.begin = clamp_index(*p.begin.at<const int32_t>(range.row, q_head, range.begin + i), q.end);
  return q;
}

// Some of a sequence's selected keys, or all of them if they are few; null where there is no such list.
template <class K>
struct KeyList {
  const K* keys = nullptr;
  int32_t length = 0;
};
using SelectionList = KeyList<int32_t>;
using FewSelected = KeyList<SelectedKey>;

// A sequence's stretch of queries that share a list.
struct Stretch {
  int64_t place;        // among those of a row
  int64_t first, last;  // counted from the sequence's start

  __device__ Stretch(const Sequences& sequences, const Sequences::Range& range, int64_t s,
                     int64_t number)
      : place(Tiling{kListQueries}.first_place(sequences, s, range.begin) + number),
        first(number * kListQueries),
        last((number + 2) * kListQueries > range.length ? range.length
                                                        : (number + 1) * kListQueries) {}
  __device__ int64_t capacity() const { return kListKeysPerQuery * (last - first); }
};
__device__ inline int64_t count_stretches(int64_t length) {
  return length < kListQueries ? 1 : length / kListQueries;
}

// Where the list of a stretch of a sequence begins. key_row: b * Hk + key head.
__device__ inline int32_t* list_of(const CudaLists& lists, const Sequences& sequences,
                                   const Sequences::Range& range, const Stretch& stretch,
                                   int64_t key_row) {
  return lists.lists +
         kListKeysPerQuery * (key_row * sequences.length + range.begin + stretch.first);
}

// The selected keys that a tile's queries may attend.
__device__ inline SelectionList find_list(const CudaLists& lists, const Sequences& sequences,
                                          const TileRange& tile, int64_t key_row) {
  if (!lists.lists || tile.range.length <= kDenseLength) return {};
  const Stretch stretch(sequences, tile.range, tile.s,
                        min(tile.first / kListQueries, count_stretches(tile.range.length) - 1));
  const int32_t length =
      lists.length[key_row * Tiling{kListQueries}.places(sequences) + stretch.place];
  if (length > stretch.capacity()) return {};
  return {list_of(lists, sequences, tile.range, stretch, key_row), length};
}

// All selected keys of a sequence if they are few.
__device__ inline FewSelected find_few_selected(const CudaLists& lists, const Sequences& sequences,
                                                const TileRange& tile, int64_t key_row) {
  if (!lists.selected) return {};
  const int64_t s = sequences.packed() ? key_row * sequences.count() + tile.s : key_row;
  const int32_t count = lists.selected_count[s];
  if (count > kFewSelected) return {};
  return {lists.few_begin(sequences, tile.range, key_row), count};
}

// All selected keys of a short sequence.
__device__ inline FewSelected find_short_selected(const CudaLists& lists,
                                                  const Sequences& sequences, const TileRange& tile,
                                                  int64_t key_row) {
  const int64_t s = sequences.packed() ? key_row * sequences.count() + tile.s : key_row;
  return {lists.few_begin(sequences, tile.range, key_row), lists.selected_count[s]};
}

// find_tile() by a warp together.
__device__ inline TileRange find_tile_by_warp(const Sequences& sequences, Tiling tiling,
                                              int64_t row, int64_t place) {
  int64_t s = row;
  if (sequences.packed()) {
    // The last sequence that begins at or before the place is one of `count` from s on.
    s = 0;
    for (int64_t count = sequences.count(); count > 1;) {
      const int64_t apart = (count + 31) / 32, at = apart * (threadIdx.x % 32);
      const bool before =
          at < count && tiling.first_place(sequences, s + at, sequences.boundary(s + at)) <= place;
      const int64_t last = apart * (__popc(__ballot_sync(0xffffffffu, before)) - 1);
      s += last;
      count = min(apart, count - last);
    }
  }
  return tile_of(sequences, tiling, s, place);
}

}  // namespace hax::sparse_attention
