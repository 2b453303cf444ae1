// The best keys of each chunk, and keys that surely leave as they come.
#pragma once

#include "hash/key_select/key_select_kernel_bound.cuh"

namespace hax::key_select {

inline constexpr int kBestThreads = 128;
inline constexpr int kBestWarps = kBestThreads / kWarp;
inline constexpr int kBestKeys = kChunkTokens / kBestThreads;  // of a thread

// Whether the chunks after this one need its best keys.
__device__ inline bool followed(const SequenceTiles::Tile& chunk) {
  return chunk.begin < chunk.end && chunk.end < chunk.range.length;
}

// A chunk's keys, neighbours of which a thread has four at a time.
struct ChunkKeys {
  int64_t first, end;  // of the row: the thread's first key, and the chunk's end
  float score[kBestKeys];

  __device__ ChunkKeys(const Row& row, const SequenceTiles::Tile& chunk)
      : first(chunk.begin + threadIdx.x * 4), end(chunk.end) {
#pragma unroll
    for (int i = 0; i < kBestKeys; i += 4) {
      float four[4];
      row.load(four, position(i), end);
#pragma unroll
      for (int e = 0; e < 4; ++e) score[i + e] = four[e];
    }
  }
  __device__ int64_t position(int i) const { return first + i / 4 * (4 * kBestThreads) + i % 4; }
  __device__ uint64_t rank(int i) const {
    return rank_of(order_of(score[i]), static_cast<uint32_t>(position(i)));
  }
};

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

template <int Listed>
struct BestMemory {
  // Parts of a thread: enough for one bound and some.
  static constexpr int kParts = Listed >= kBestThreads ? 2 * Listed / kBestThreads : 1;
  static constexpr int kPart = kBestKeys / kParts;
  static constexpr int kFound = Listed * kPart;

  uint64_t found[kFound > kBestWarps* kMostEntering ? kFound : kBestWarps* kMostEntering];
  union {
    uint64_t bests[kBestThreads * kParts];
    uint64_t entering[kMostEntering];
  };
  uint64_t bound;
  int count, counts[kBestKeys / 4][kBestWarps];
};

// The Listed best of some keys, ascending, zeros where there are fewer. By all threads of a block.
template <int Listed>
__device__ void store_best(const uint64_t* keys, int count, uint64_t exact, uint64_t* out) {
  for (int i = threadIdx.x; i < count; i += kBestThreads) {
    const uint64_t own = keys[i];
    if (own < exact) continue;
    int above = 0;
#pragma unroll 4
    for (int j = 0; j < count; ++j) above += keys[j] > own;
    if (above < Listed) out[Listed - 1 - above] = own;
  }
  for (int i = count + threadIdx.x; i < Listed; i += kBestThreads) out[Listed - 1 - i] = 0;
}

// Keys up to the bound leave; the others are listed in order. False: they are too many.
template <int Listed>
__device__ bool list_entering(const Row& row, const ChunkKeys& keys, float bound, bool needs_best,
                              const Plan& plan, BestMemory<Listed>& shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  uint64_t* const own = shared.found + warp * kMostEntering;
  int count = 0, starts[kBestKeys / 4 + 1];  // of the warp's keys in own, four of a lane after four
#pragma unroll
  for (int i = 0; i < kBestKeys; i += 4) {
    starts[i / 4] = count;
    const int64_t j = keys.position(i);
    bool enters[4], some = j + 4 > keys.end;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      enters[e] = keys.score[i + e] > bound && j + e < keys.end;
      some |= enters[e];
    }
    if (!some) row.evict_four(j);
    if (__any_sync(0xffffffffu, some)) {
      int to = count;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const uint32_t entering = __ballot_sync(0xffffffffu, enters[e]);
        to += __popc(entering & ((1u << lane) - 1));
        count += __popc(entering);
        if (some && !enters[e] && j + e < keys.end) row.evict(j + e, j + e);
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (!enters[e]) continue;
        if (to < kMostEntering) own[to] = keys.rank(i + e);
        ++to;
      }
    }
    if (lane == 0) shared.counts[i / 4][warp] = count - starts[i / 4];
  }
  starts[kBestKeys / 4] = count;
  __syncthreads();
  int total = 0, before[kBestKeys / 4];
#pragma unroll
  for (int i = 0; i < kBestKeys / 4; ++i) {
#pragma unroll
    for (int w = 0; w < kBestWarps; ++w) {
      if (w == warp) before[i] = total;
      total += shared.counts[i][w];
    }
  }
  if (total > kMostEntering) return false;
  uint64_t* const entering = plan.entering + int64_t{blockIdx.x} * kMostEntering;
#pragma unroll
  for (int i = 0; i < kBestKeys / 4; ++i) {
    for (int from = starts[i] + lane; from < starts[i + 1]; from += kWarp) {
      const int to = before[i] + from - starts[i];
      entering[to] = own[from];
      shared.entering[to] = own[from];
    }
  }
  if (threadIdx.x == 0) plan.counts[blockIdx.x] = total;
  __syncthreads();
  if (needs_best) {
    store_best<Listed>(shared.entering, total, 0, plan.best + int64_t{blockIdx.x} * Listed);
  }
  return true;
}

// A full chunk's Listed best keys. The Listed-th greatest of the best keys of parts of the chunk is a bound that few
// other keys reach.
template <int Listed>
__device__ void list_best(const ChunkKeys& keys, uint64_t* out, BestMemory<Listed>& shared) {
  constexpr int kParts = BestMemory<Listed>::kParts, kPart = BestMemory<Listed>::kPart;
  const int thread = threadIdx.x;
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    uint64_t best = 0;
#pragma unroll
    for (int i = part * kPart; i < (part + 1) * kPart; ++i) best = max(best, keys.rank(i));
    shared.bests[part * kBestThreads + thread] = best;
  }
  if (thread == 0) shared.count = 0;
  __syncthreads();
  if (thread < kWarp) {
    uint64_t values[kBestThreads * kParts / kWarp];
#pragma unroll
    for (int i = 0; i < kBestThreads * kParts / kWarp; ++i) {
      values[i] = shared.bests[i * kWarp + thread];
    }
    const uint64_t least = select_by_warp(values, Listed);
    if (thread == 0) shared.bound = least;
  }
  __syncthreads();
  const uint64_t least = shared.bound;
  uint32_t reached = 0;  // keys that reach the bound
#pragma unroll
  for (int i = 0; i < kBestKeys; ++i) {
    if (keys.rank(i) >= least) reached |= 1u << i;
  }
  if (reached != 0) {
    int to = atomicAdd(&shared.count, __popc(reached));
#pragma unroll
    for (int i = 0; i < kBestKeys; ++i) {
      if (reached >> i & 1) shared.found[to++] = keys.rank(i);
    }
  }
  __syncthreads();
  const int total = shared.count;
  const uint64_t exact = total > 4 * Listed ? select_by_block(shared.found, total, Listed) : 0;
  store_best<Listed>(shared.found, total, exact, out);
}

// A block for every (slot of a chunk, head).
template <int Listed>
__global__ void __launch_bounds__(kBestThreads)
    best_kernel(const __grid_constant__ Params p, const __grid_constant__ Plan plan) {
  __shared__ BestMemory<Listed> shared;
  const SequenceTiles::Tile chunk = p.chunks().at(blockIdx.x / p.heads);
  const int64_t head = blockIdx.x % p.heads;
  if (chunk.begin >= chunk.end || chunk.begin == 0) return;  // the first is done already
  const Row row(p, chunk.range, head);
  const ChunkKeys keys(row, chunk);
  const float bound =
      plan.bounds[2 * (chunk.sequence * p.heads + head) + (chunk.begin >= kHeadTokens ? 1 : 0)];
  const bool bounded = bound == bound;  // not so where few of the first keys are numbers
  if (bounded && list_entering<Listed>(row, keys, bound, followed(chunk), plan, shared)) return;
  __syncthreads();
  if (threadIdx.x == 0) plan.counts[blockIdx.x] = kAllEnter;
  if (followed(chunk)) list_best(keys, plan.best + int64_t{blockIdx.x} * Listed, shared);
}

}  // namespace hax::key_select
