// The best keys of each chunk, then of all chunks before it.
#pragma once

#include "hash/key_select/key_select_kernel.cuh"

namespace hax::key_select {

inline constexpr int kBestThreads = 256;
inline constexpr int kBestKeys = kChunkTokens / kBestThreads;  // of a thread
inline constexpr int kScanWarps = 16;
static_assert(kMaxListed <= kBestThreads);

// Whether the chunks after this one need its best keys.
__device__ inline bool followed(const SequenceTiles::Tile& chunk) {
  return chunk.begin < chunk.end && chunk.end < chunk.range.length;
}

// The count-th greatest of the values, all different but for zeros, that a warp holds; zero if there are fewer.
template <int Count>
__device__ uint64_t select_by_warp(const uint64_t (&values)[Count], int count) {
  uint64_t least = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t trial = least | uint64_t{1} << bit;
    int above = 0;
#pragma unroll
    for (int i = 0; i < Count; ++i) above += values[i] >= trial;
    above = __reduce_add_sync(0xffffffffu, above);
    if (above >= count) least = trial;
    if (above == count) break;
  }
  return least;
}

// The same for all threads of a block and a list in shared memory.
__device__ inline uint64_t select_by_block(const uint64_t* values, int total, int count) {
  uint64_t least = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t trial = least | uint64_t{1} << bit;
    int above = 0;
    for (int first = 0; first < total; first += kBestThreads) {
      const int i = first + static_cast<int>(threadIdx.x);
      above += __syncthreads_count(i < total && values[i] >= trial);
    }
    if (above >= count) least = trial;
    if (above == count) break;
  }
  return least;
}

// A block for every (slot of a chunk, head): its Listed best keys, ascending, zeros first where there are fewer.
// The Listed-th greatest of the threads' own best keys is a bound that few other keys reach.
template <int Listed>
__global__ void __launch_bounds__(kBestThreads)
    best_kernel(const __grid_constant__ Params p, const __grid_constant__ Plan plan) {
  __shared__ uint64_t found[Listed * kBestKeys];
  __shared__ uint64_t bests[kBestThreads];
  __shared__ uint64_t bound;
  __shared__ int count;
  const int64_t index = blockIdx.x;
  const SequenceTiles::Tile chunk = p.chunks().at(index / p.heads);
  if (!followed(chunk)) return;
  const Row row(p, chunk.range, index % p.heads);
  const int thread = threadIdx.x;

  uint32_t order[kBestKeys];
#pragma unroll
  for (int i = 0; i < kBestKeys; ++i) {
    order[i] = row.order(chunk.begin + i * kBestThreads + thread);  // a followed chunk is full
  }
  const auto rank = [&](int i) {
    return rank_of(order[i], static_cast<uint32_t>(chunk.begin) + i * kBestThreads + thread);
  };
  uint64_t best = 0;
#pragma unroll
  for (int i = 0; i < kBestKeys; ++i) best = max(best, rank(i));
  bests[thread] = best;
  if (thread == 0) count = 0;
  __syncthreads();
  if (thread < kWarp) {
    uint64_t values[kBestThreads / kWarp];
#pragma unroll
    for (int i = 0; i < kBestThreads / kWarp; ++i) values[i] = bests[i * kWarp + thread];
    const uint64_t least = select_by_warp(values, Listed);
    if (thread == 0) bound = least;
  }
  __syncthreads();
  const uint64_t least = bound;
  if (best >= least) {
#pragma unroll
    for (int i = 0; i < kBestKeys; ++i) {
      if (rank(i) >= least) found[atomicAdd(&count, 1)] = rank(i);
    }
  }
  __syncthreads();
  const int total = count;
  uint64_t* out = plan.best + index * Listed;
  const uint64_t exact = total > Listed ? select_by_block(found, total, Listed) : 0;
  for (int i = thread; i < total; i += kBestThreads) {
    if (found[i] < exact) continue;
    int above = 0;
    for (int j = 0; j < total; ++j) above += found[j] > found[i];
    out[Listed - 1 - above] = found[i];
  }
}

// Exchanges with the lane `distance` away and keeps the greater or the smaller value.
__device__ inline uint64_t keep_one(uint64_t mine, int distance, bool greater) {
  const uint64_t other = __shfl_xor_sync(0xffffffffu, mine, distance);
  return (mine < other) == greater ? other : mine;
}

// A list of a warp: lane l holds places V l ... V l + V - 1, ascending.
template <int V>
struct RankList {
  uint64_t rank[V];

  __device__ void load(const uint64_t* from, int lane) {
#pragma unroll
    for (int v = 0; v < V; ++v) rank[v] = from ? from[lane * V + v] : 0;
  }
  __device__ void store(uint64_t* to, int lane) const {
#pragma unroll
    for (int v = 0; v < V; ++v) to[lane * V + v] = rank[v];
  }

  // Keeps the best of both lists (Batcher 1968: the greater ones of a list and a reversed one are bitonic).
  __device__ void merge(const uint64_t* other, int lane) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      rank[v] = max(rank[v], other[kWarp * V - 1 - (lane * V + v)]);
    }
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
#pragma unroll
      for (int v = 0; v < V; ++v) rank[v] = keep_one(rank[v], distance, lane & distance);
    }
#pragma unroll
    for (int distance = V / 2; distance > 0; distance /= 2) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (v & distance) continue;
        const uint64_t low = min(rank[v], rank[v + distance]);
        rank[v + distance] = max(rank[v], rank[v + distance]);
        rank[v] = low;
      }
    }
  }
};

// A block for every (sequence, head): each chunk's best keys become those of all chunks before it.
template <int V>
__global__ void __launch_bounds__(kScanWarps* kWarp)
    scan_kernel(const __grid_constant__ Params p, const __grid_constant__ Plan plan) {
  constexpr int kListed = kWarp * V;
  extern __shared__ uint64_t lists[];  // of each warp, and of all chunks before the round
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t s = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
  const SequenceTiles chunks = p.chunks();
  const int64_t count = ceil_div(p.sequences.range(s).length, kChunkTokens);
  if (count <= 1) return;
  uint64_t* best = plan.best + (chunks.first_slot(s) * p.heads + head) * kListed;
  const int64_t next = p.heads * kListed;
  uint64_t* own = lists + warp * kListed;
  uint64_t* before = lists + kScanWarps * kListed;
  for (int i = threadIdx.x; i < kListed; i += blockDim.x) before[i] = 0;

  for (int64_t first = 0; first < count; first += kScanWarps) {
    const int64_t chunk = first + warp;
    RankList<V> list;
    list.load(chunk < count - 1 ? best + chunk * next : nullptr, lane);
    for (int distance = 1; distance < kScanWarps; distance *= 2) {
      list.store(own, lane);
      __syncthreads();
      if (warp >= distance) list.merge(own - distance * kListed, lane);
      __syncthreads();
    }
    list.merge(before, lane);
    list.store(own, lane);
    __syncthreads();
    if (chunk < count) {
      RankList<V> exclusive;
      exclusive.load(warp > 0 ? own - kListed : before, lane);
      exclusive.store(best + chunk * next, lane);
    }
    __syncthreads();
    if (warp == kScanWarps - 1) list.store(before, lane);
    __syncthreads();
  }
}

}  // namespace hax::key_select
