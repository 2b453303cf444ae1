// Budgets beyond what a warp can hold: a block for every row keeps all best keys in order in
// memory. As a step of so many tokens evicts at most as many keys, a warp walks it with the worst
// keys alone; then the block merges these with the others.
#pragma once

#include "hash/key_select/key_select_kernel_walk.cuh"

namespace hax::key_select {

inline constexpr int kLargeThreads = 512;
inline constexpr int kStepTokens = static_cast<int>(kMaxListed);

// How many of `count` ascending values are less than `value`, or not greater where `equal` counts.
__device__ inline int64_t count_below(const uint64_t* values, int64_t count, uint64_t value,
                                      bool equal) {
  int64_t low = 0;
  for (int64_t high = count; low < high;) {
    const int64_t middle = (low + high) / 2;
    if (values[middle] < value || (equal && values[middle] == value)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

__global__ void __launch_bounds__(kLargeThreads)
    large_kernel(const __grid_constant__ Params p, const __grid_constant__ Plan plan) {
  constexpr int V = kStepTokens / kWarp;
  __shared__ WalkMemory<V> memory;
  __shared__ bool changed;
  const uint64_t* worst = memory.best;
  const int thread = threadIdx.x;
  const int64_t s = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
  const Sequences::Range range = p.sequences.range(s);
  const Row row(p, range, head);
  const int64_t kept = min(p.budget, range.length);
  const int walked = static_cast<int>(min(kept, int64_t{kStepTokens}));
  uint64_t* best = plan.all + (range.row * p.heads + head) * p.sequences.length + range.begin;
  uint64_t* next = best + p.sequences.batch * p.heads * p.sequences.length;
  for (int64_t i = thread; i < kept; i += kLargeThreads) best[i] = 0;
  __syncthreads();
  for (int64_t first = 0; first < range.length; first += kStepTokens) {
    if (thread < kWarp) {
      Walk<V> walk(row, memory, best, walked, thread);
      walk.keys(first, min(first + kStepTokens, range.length));
      if (thread == 0) changed = walk.changed;
    }
    __syncthreads();
    if (changed) {
      const uint64_t* others = best + walked;
      for (int64_t i = thread; i < kept - walked; i += kLargeThreads) {
        next[i + count_below(worst, walked, others[i], true)] = others[i];
      }
      for (int i = thread; i < walked; i += kLargeThreads) {
        next[i + count_below(others, kept - walked, worst[i], false)] = worst[i];
      }
      uint64_t* former = best;
      best = next;
      next = former;
    }
    __syncthreads();
  }
  for (int64_t i = thread; i < kept; i += kLargeThreads) {
    row.evict(position_of(best[i]), row.length);
  }
}

}  // namespace hax::key_select
