// Everything that short sequences need beforehand, by one block each.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_block.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_pattern.cuh"

namespace hax::sparse_attention {

inline constexpr int kShortThreads = 512;

// Of a block that orders queries, and of one that lists keys.
struct ShortQueries {
  int32_t counts[kDenseLength + kShortThreads];
  BlockCount<kShortThreads> count;
};
struct ShortKeys {
  BlockCount<kShortThreads> count;
  SelectedKey selected[kFewSelected];
};

// The order of a short sequence's queries.
__device__ inline void order_short_queries(const Problem& p, const Sequences::Range& range,
                                           int64_t head, const CudaIndices& indices,
                                           const CudaLists& lists, ShortQueries& shared) {
  constexpr int kItems = static_cast<int>(kDenseLength) / kShortThreads;
  const auto length = static_cast<int32_t>(range.length);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  int32_t* const counts = shared.counts;
  for (int32_t i = thread; i <= length; i += kShortThreads) counts[i] = 0;
  __syncthreads();
  Query queries[kItems];
  int32_t places[kItems];
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int32_t i = k * kShortThreads + thread;
    if (i >= length) continue;
    queries[k] = read_query(p.pattern, range, i, head);
    places[k] = atomicAdd(&counts[queries[k].end], 1);
  }
  __syncthreads();
  // Each thread adds up neighbours.
  constexpr int kNeighbours = kItems + 1;
  const int32_t first = thread * kNeighbours;
  int32_t sum = 0;
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k) sum += first + k <= length ? counts[first + k] : 0;
  int32_t before = shared.count(sum).before;
#pragma unroll
  for (int k = 0; k < kNeighbours; ++k) {
    if (first + k > length) break;
    const int32_t own = counts[first + k];
    counts[first + k] = before;
    before += own;
  }
  __syncthreads();
  const int64_t first_query = (range.row * p.q_heads + head) * p.sequences.length + range.begin;
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int32_t i = k * kShortThreads + thread;
    if (i >= length) continue;
    const int64_t at = first_query + counts[queries[k].end] + places[k];
    if (indices.query_order) indices.query_order[at] = i;
    if (lists.short_queries) {
      lists.short_queries[at] = {i, queries[k].begin, queries[k].end};
    }
  }
  __syncthreads();
}

// The ranks of a short sequence's keys.
__device__ inline void rank_short_keys(const Problem& p, const Sequences::Range& range,
                                       int64_t head, const CudaIndices& indices) {
  if (!indices.key_rank) return;
  const PatternView view(p.pattern, range, head);
  int32_t* const ranks =
      indices.key_rank + (range.row * p.k_heads + head) * p.sequences.length + range.begin;
  for (int32_t j = threadIdx.x; j < range.length; j += kShortThreads) ranks[view.ordered(j)] = j;
}

// Its selected keys. s: the sequence's number.
__device__ inline void list_short_keys(const Problem& p, int64_t s, const Sequences::Range& range,
                                       int64_t head, const CudaLists& lists, ShortKeys& shared) {
  constexpr int kItems = static_cast<int>(kDenseLength) / kShortThreads;
  const int64_t key_row = range.row * p.k_heads + head;
  const PatternView view(p.pattern, range, head);
  SelectedKey* const to = lists.few_begin(p.sequences, range, key_row);
  SelectedKey mine[kItems];
  int32_t places[kItems], found = 0;
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int32_t j = k * kShortThreads + static_cast<int32_t>(threadIdx.x);
    const uint32_t life = j < range.length ? view.life(j) : 0;
    mine[k] = {j, static_cast<int32_t>(j + life)};
  }
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const bool selected = mine[k].eviction > mine[k].key;
    const auto keys = shared.count(selected ? 1 : 0);
    places[k] = selected ? found + keys.before : -1;
    found += keys.all;
  }
  const bool few = found <= kFewSelected;
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    if (places[k] >= 0) (few ? shared.selected : to)[places[k]] = mine[k];
  }
  if (threadIdx.x == 0) {
    lists.selected_count[p.sequences.packed() ? key_row * p.sequences.count() + s : key_row] =
        found;
  }
  __syncthreads();
  if (few) store_sorted(to, shared.selected, found);
}

}  // namespace hax::sparse_attention
