// The first keys of each row: the first chunk, and bounds that later keys must exceed to come in; all others leave as they
// come.
#pragma once

#include "hash/key_select/key_select_kernel_bound.cuh"
#include "hash/key_select/key_select_kernel_short.cuh"

namespace hax::key_select {

inline constexpr int kHeadKeys = static_cast<int>(kHeadTokens) / kShortThreads;  // of a thread

// As many of the threads' best keys among a row's first kHeadTokens reach the bound as a query may select, and few other
// keys do.
template <int V>
__device__ void bound_head(const Row& row, int count, ShortMemory<V>& shared, float* bound) {
  static_assert(kShortThreads >= kWarp * V);
  auto* bests = reinterpret_cast<uint64_t*>(&shared);
  const int thread = threadIdx.x;
  float score[kHeadKeys / 4][4];
#pragma unroll
  for (int i = 0; i < kHeadKeys / 4; ++i) {
    row.load(score[i], (i * kShortThreads + thread) * 4, kHeadTokens);
  }
  uint64_t best = 0;
#pragma unroll
  for (int i = 0; i < kHeadKeys; ++i) {
    const uint32_t j = (i / 4 * kShortThreads + thread) * 4 + i % 4;
    best = max(best, rank_of(order_of(score[i / 4][i % 4]), j));
  }
  bests[thread] = best;
  __syncthreads();
  if (thread >= kWarp) return;
  uint64_t values[kShortWarps];
#pragma unroll
  for (int i = 0; i < kShortWarps; ++i) values[i] = bests[i * kWarp + thread];
  const uint64_t least = select_by_warp(values, count);
  if (thread == 0) *bound = score_of(order_of(least));
}

// Two blocks for every (sequence, head).
template <int V>
__global__ void __launch_bounds__(kShortThreads)
    head_kernel(const __grid_constant__ Params p, const __grid_constant__ Plan plan) {
  extern __shared__ uint4 memory[];
  auto& shared = *reinterpret_cast<ShortMemory<V>*>(memory);
  const int64_t index = blockIdx.x / 2, s = index / p.heads, head = index % p.heads;
  const Sequences::Range range = p.sequences.range(s);
  if (range.length <= 0) return;
  float* const bounds = plan.bounds + 2 * index;
  if (blockIdx.x % 2 == 0) {
    const int64_t first = p.chunks().first_slot(s) * p.heads + head;
    walk_short(p, range, head, shared, {plan.best + first * kWarp * V, bounds});
  } else if (range.length > kHeadTokens) {
    const int kept = static_cast<int>(min(p.budget, int64_t{kWarp * V}));
    bound_head(Row(p, range, head), kept, shared, bounds + 1);
  }
}

}  // namespace hax::key_select
