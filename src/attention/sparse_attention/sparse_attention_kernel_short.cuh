// Everything that short sequences need beforehand.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_block.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_pattern.cuh"

namespace hax::sparse_attention {

inline constexpr int kShortThreads = 512;

// Short sequences: the order of the queries, the ranks of the keys and the few selected ones. A block takes a sequence
// and a head, first of the queries, then of the keys.
__global__ void __launch_bounds__(kShortThreads)
    short_kernel(const __grid_constant__ Problem p, const CudaIndices indices,
                 const CudaLists lists) {
  constexpr int kItems = static_cast<int>(kDenseLength) / kShortThreads;
  __shared__ int32_t counts[kDenseLength + kShortThreads];
  __shared__ BlockCount<kShortThreads> count;
  __shared__ SelectedKey shared[kFewSelected];
  const auto heads = static_cast<uint32_t>(p.q_heads + p.k_heads);
  const int64_t s = blockIdx.x / heads;
  const Sequences::Range range = p.sequences.range(s);
  const int64_t head = blockIdx.x % heads;
  const auto length = static_cast<int32_t>(range.length);
  if (length <= 0 || length > kDenseLength) return;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int64_t total = p.sequences.length;

  if (head < p.q_heads) {
    for (int32_t i = thread; i <= length; i += kShortThreads) counts[i] = 0;
    __syncthreads();
    int32_t ends[kItems], places[kItems];
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const int32_t i = k * kShortThreads + thread;
      if (i >= length) continue;
      ends[k] = read_query(p.pattern, range, i, head).end;
      places[k] = atomicAdd(&counts[ends[k]], 1);
    }
    __syncthreads();
    // Each thread adds up neighbours.
    constexpr int kNeighbours = kItems + 1;
    const int32_t first = thread * kNeighbours;
    int32_t sum = 0;
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) sum += first + k <= length ? counts[first + k] : 0;
    int32_t before = count(sum).before;
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) {
      if (first + k > length) break;
      const int32_t own = counts[first + k];
      counts[first + k] = before;
      before += own;
    }
    __syncthreads();
    int32_t* const order =
        indices.query_order + (range.row * p.q_heads + head) * total + range.begin;
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const int32_t i = k * kShortThreads + thread;
      if (i < length) order[counts[ends[k]] + places[k]] = i;
    }
    return;
  }

  const int64_t k_head = head - p.q_heads;
  const int64_t key_row = range.row * p.k_heads + k_head;
  const PatternView view(p.pattern, range, k_head);
  SelectedKey* const selected =
      lists.selected ? lists.selected + key_row * total + range.begin : nullptr;
  int32_t found = 0;
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int32_t j = k * kShortThreads + thread;
    if (j < length) indices.key_rank[key_row * total + range.begin + view.ordered(j)] = j;
    if (!selected) continue;
    const uint32_t life = j < length ? view.life(j) : 0;
    const auto keys = count(life > 0 ? 1 : 0);
    if (life > 0 && found + keys.before < kFewSelected) {
      shared[found + keys.before] = {j, static_cast<int32_t>(j + life)};
    }
    found += keys.all;
  }
  if (!selected) return;
  if (thread == 0) {
    lists.selected_count[p.sequences.packed() ? key_row * p.sequences.count() + s : key_row] =
        found;
  }
  __syncthreads();
  if (found <= kFewSelected) store_sorted(selected, shared, found);
}

}  // namespace hax::sparse_attention
