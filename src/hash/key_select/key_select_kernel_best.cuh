// The best keys of each chunk, then of all chunks before it.
#pragma once

#include "hash/key_select/key_select_kernel_list.cuh"

namespace hax::key_select {

inline constexpr int kBestThreads = 128;
inline constexpr int kBestKeys = kChunkTokens / kBestThreads;  // of a thread
inline constexpr int kScanWarps = 16;

// Whether the chunks after this one need its best keys.
__device__ inline bool followed(const SequenceTiles::Tile& chunk) {
  return chunk.begin < chunk.end && chunk.end < chunk.range.length;
}

// A bound that exactly `count` of the values, all different and at least as many, that a warp holds
// reach.
template <int Count>
__device__ uint64_t select_by_warp(const uint64_t (&values)[Count], int count) {
  // Bits that all have in common need no trial.
  uint32_t ones = order_of(values[0]), zeros = ~ones;
#pragma unroll
  for (int i = 1; i < Count; ++i) {
    ones |= order_of(values[i]);
    zeros |= ~order_of(values[i]);
  }
  const uint32_t differing =
      __reduce_or_sync(0xffffffffu, ones) & __reduce_or_sync(0xffffffffu, zeros);
  const int first = differing == 0 ? 31 : 63 - __clz(static_cast<int>(differing));
  uint64_t least = first == 63 ? 0 : values[0] >> (first + 1) << (first + 1);
  least = __shfl_sync(0xffffffffu, least, 0);
  for (int bit = first; bit >= 0; --bit) {
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

// A block for every (slot of a chunk, head): its Listed best keys, ascending. The Listed-th
// greatest of the best keys of parts of the chunk is a bound that few other keys reach.
template <int Listed>
__global__ void __launch_bounds__(kBestThreads)
    best_kernel(const __grid_constant__ Params p, const __grid_constant__ Plan plan) {
  // Parts of a thread: enough for one bound and some.
  constexpr int kParts = Listed >= kBestThreads ? 2 * Listed / kBestThreads : 1;
  constexpr int kPart = kBestKeys / kParts;
  __shared__ uint64_t found[Listed * kPart];
  __shared__ uint64_t bests[kBestThreads * kParts];
  __shared__ uint64_t bound;
  __shared__ int count;
  const int64_t index = blockIdx.x;
  const SequenceTiles::Tile chunk = p.chunks().at(index / p.heads);
  if (!followed(chunk)) return;
  const Row row(p, chunk.range, index % p.heads);
  const int thread = threadIdx.x;
  const uint32_t first = static_cast<uint32_t>(chunk.begin) + thread;

  uint32_t order[kBestKeys];
  const float* from = row.score + first * row.score_stride;
#pragma unroll
  for (int i = 0; i < kBestKeys; ++i) {  // a followed chunk is full
    order[i] = order_of(from[i * kBestThreads * row.score_stride]);
  }
  const auto rank = [&](int i) { return rank_of(order[i], first + i * kBestThreads); };
  uint64_t best[kParts];
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    uint32_t greatest = 0;
    int at = 0;
#pragma unroll
    for (int i = part * kPart; i < (part + 1) * kPart; ++i) {
      if (order[i] <= greatest) continue;
      greatest = order[i];
      at = i;
    }
    best[part] = rank_of(greatest, first + at * kBestThreads);
    bests[part * kBestThreads + thread] = best[part];
  }
  if (thread == 0) count = 0;
  __syncthreads();
  if (thread < kWarp) {
    uint64_t values[kBestThreads * kParts / kWarp];
#pragma unroll
    for (int i = 0; i < kBestThreads * kParts / kWarp; ++i) values[i] = bests[i * kWarp + thread];
    const uint64_t least = select_by_warp(values, Listed);
    if (thread == 0) bound = least;
  }
  __syncthreads();
  const uint64_t least = bound;
  uint32_t reached = 0;  // keys that reach the bound
#pragma unroll
  for (int i = 0; i < kBestKeys; ++i) {
    if (order[i] >= order_of(least) && rank(i) >= least) reached |= 1u << i;
  }
  if (reached != 0) {
    int to = atomicAdd(&count, __popc(reached));
#pragma unroll
    for (int i = 0; i < kBestKeys; ++i) {
      if (reached >> i & 1) found[to++] = rank(i);
    }
  }
  __syncthreads();
  const int total = count;
  uint64_t* out = plan.best + index * Listed;
  const uint64_t exact = total > 2 * Listed ? select_by_block(found, total, Listed) : 0;
  for (int i = thread; i < total; i += kBestThreads) {
    const uint64_t own = found[i];
    if (own < exact) continue;
    int above = 0;
#pragma unroll 4
    for (int j = 0; j < total; ++j) above += found[j] > own;
    if (above < Listed) out[Listed - 1 - above] = own;
  }
}

// A block for every (sequence, head): each chunk's best keys become those of all chunks before it.
// A warp has a stretch of the chunks: their best first, then those of the stretches before, then
// chunk by chunk.
template <int V>
__global__ void __launch_bounds__(kScanWarps* kWarp)
    scan_kernel(const __grid_constant__ Params p, const __grid_constant__ Plan plan) {
  constexpr int kListed = kWarp * V;
  extern __shared__ uint64_t lists[];  // one a warp
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t s = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
  const SequenceTiles chunks = p.chunks();
  const int64_t count = ceil_div(p.sequences.range(s).length, kChunkTokens);
  if (count <= 1) return;
  uint64_t* best = plan.best + (chunks.first_slot(s) * p.heads + head) * kListed;
  const int64_t next = p.heads * kListed;
  uint64_t* own = lists + warp * kListed;
  const int64_t first = count * warp / kScanWarps, last = count * (warp + 1) / kScanWarps;

  RankList<V> list, other;
#pragma unroll 1
  for (int64_t chunk = first; chunk < min(last, count - 1);
       ++chunk) {  // nobody needs the last one's
    other.load_reversed(best + chunk * next, lane);
    list.merge(other, lane);
  }
#pragma unroll 1
  for (int distance = 1; distance < kScanWarps; distance *= 2) {
    list.store(own, lane);
    __syncthreads();
    if (warp >= distance) {
      other.load_reversed(own - distance * kListed, lane);
      list.merge(other, lane);
    }
    __syncthreads();
  }
  list.store(own, lane);
  __syncthreads();
  RankList<V> before;
  if (warp > 0) before.load(own - kListed, lane);
#pragma unroll 1
  for (int64_t chunk = first; chunk < last; ++chunk) {
    if (chunk < count - 1) other.load_reversed(best + chunk * next, lane);
    __syncwarp();
    before.store(best + chunk * next, lane);
    if (chunk < count - 1) before.merge(other, lane);
  }
}

}  // namespace hax::key_select
