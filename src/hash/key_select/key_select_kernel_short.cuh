// Rows of one chunk: a block cuts its row into stretches, one for each warp, which then does with them what whole grids
// do with the chunks of long rows: the best keys of each, of all before each, and the walk.
#pragma once

#include "device/early_start.cuh"
#include "hash/key_select/key_select_kernel_list.cuh"
#include "hash/key_select/key_select_kernel_walk.cuh"

namespace hax::key_select {

inline constexpr int kShortWarps = 16;
inline constexpr int kShortThreads = kShortWarps * kWarp;
static_assert(kChunkTokens == kShortWarps * kWalkKeys);

template <int V>
struct ShortMemory {
  WalkMemory<V> walks[kShortWarps];
  uint64_t lists[kShortWarps][kWarp * V];
};

// Where what the chunks after the first need goes: its best keys, ascending, and the score that keys must exceed to come
// in.
struct FirstChunk {
  uint64_t* best = nullptr;
  float* bound = nullptr;
};

// A head of a sequence of at most kChunkTokens, or the first so many of one. By all threads of a block.
template <int V>
__device__ void walk_short(const Params& p, const Sequences::Range& range, int64_t head,
                           ShortMemory<V>& shared, const FirstChunk& first = {}) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const Row row(p, range, head);
  const int64_t length = min(row.length, kChunkTokens);
  const int64_t begin = int64_t{warp} * kWalkKeys, end = min(begin + kWalkKeys, length);
  const bool present = begin < end;
  // Nobody needs the last stretch's of a sequence.
  const bool followed = end < row.length;
  RankList<V> list, other;
  if (present && followed) {
#pragma unroll
    for (int i = 0; i < kWalkKeys / kWarp; ++i) {
      const int64_t j = begin + i * kWarp + lane;
      other.sort(rank_of(order_of(row.score[j * row.score_stride]), static_cast<uint32_t>(j)),
                 lane);
      other.store(shared.lists[warp], lane);
      __syncwarp();
      other.load_reversed(shared.lists[warp], lane);
      __syncwarp();
      list.merge(other, lane);
    }
  }
  list.store(shared.lists[warp], lane);
  __syncthreads();
#pragma unroll 1
  for (int distance = 1; distance < kShortWarps && distance * kWalkKeys < length; distance *= 2) {
    if (warp >= distance) other.load_reversed(shared.lists[warp - distance], lane);
    __syncthreads();
    if (warp >= distance) {
      list.merge(other, lane);
      list.store(shared.lists[warp], lane);
    }
    __syncthreads();
  }
  if (!present) return;
  const int kept = static_cast<int>(min(p.budget, int64_t{kWarp * V}));
  if (end == kChunkTokens && followed) {
    list.store(first.best, lane);
    if (lane == 0) *first.bound = score_of(order_of(shared.lists[warp][kWarp * V - kept]));
  }
  const uint64_t* const before = warp > 0 ? shared.lists[warp - 1] + kWarp * V - kept : nullptr;
  Walk<V> walk(row, shared.walks[warp], before, kept, lane);
  walk.keys(begin, end);
  if (!followed) walk.keep();
}

// A block for every (sequence, head).
template <int V>
__global__ void __launch_bounds__(kShortThreads) short_kernel(const __grid_constant__ Params p) {
  extern __shared__ uint4 memory[];
  device::wait_for_previous();
  device::start_next();
  const Sequences::Range range = p.sequences.range(blockIdx.x / p.heads);
  if (range.length <= 0) return;
  walk_short<V>(p, range, blockIdx.x % p.heads, *reinterpret_cast<ShortMemory<V>*>(memory));
}

}  // namespace hax::key_select
