// The best keys of all chunks before each.
#pragma once

#include "hash/key_select/key_select_kernel_list.cuh"

namespace hax::key_select {

inline constexpr int kScanWarps = 16;

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

  const int64_t end = min(last, count - 1);  // nobody needs the last one's
  RankList<V> list, other, ahead;
  if (first < end) ahead.load_reversed(best + first * next, lane);
#pragma unroll 1
  for (int64_t chunk = first; chunk < end; ++chunk) {
    other = ahead;
    if (chunk + 1 < end) ahead.load_reversed(best + (chunk + 1) * next, lane);
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
  if (first < end) ahead.load_reversed(best + first * next, lane);
  if (warp > 0) before.load(own - kListed, lane);
#pragma unroll 1
  for (int64_t chunk = first; chunk < last; ++chunk) {
    other = ahead;
    if (chunk + 1 < end) ahead.load_reversed(best + (chunk + 1) * next, lane);
    __syncwarp();
    before.store(best + chunk * next, lane);
    if (chunk < end) before.merge(other, lane);
  }
}

}  // namespace hax::key_select
