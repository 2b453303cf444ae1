// Preparation of the indices that sparse_attention_cuda.hpp describes.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_pattern.cuh"

namespace hax::sparse_attention {

inline constexpr int kIndexThreads = 256;
inline constexpr int kScanThreads = 1024;

// Bins of a row: places, and one more that holds the row's length.
HAX_EVERYWHERE int64_t bins_of(const Sequences& sequences) {
  return Tiling{kBinEnds}.places(sequences) + 1;
}

__global__ void __launch_bounds__(kIndexThreads) clear_kernel(int32_t* data, int64_t count) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kIndexThreads + threadIdx.x;
  if (at < count) data[at] = 0;
}

// A query and its bin.
struct BinnedQuery {
  int64_t element;  // of (B Hq, L)
  int64_t first;    // token where its sequence begins
  int64_t bin;      // element of bin_begin
  int32_t position, range_length;
};

__device__ inline BinnedQuery find_bin(const Problem& p, int64_t element) {
  const int64_t length = p.sequences.length;
  const int64_t query_row = element / length, token = element % length;
  const int64_t row = query_row / p.q_heads, head = query_row % p.q_heads;
  const int64_t s = p.sequences.sequence_of(row, token);
  const Sequences::Range range = p.sequences.range(s);
  const int32_t end = clamp_index(*p.pattern.end.at<const int32_t>(row, head, token), range.length);
  const int32_t begin = clamp_index(*p.pattern.begin.at<const int32_t>(row, head, token), end);
  const int64_t bin = Tiling{kBinEnds}.first_place(p.sequences, s, range.begin) + end / kBinEnds;
  return {element, range.begin, query_row * bins_of(p.sequences) + bin,
          static_cast<int32_t>(token - range.begin), end - begin};
}

// Counts each bin's queries and gives every query a place among its bin's; also inverts key_order.
__global__ void __launch_bounds__(kIndexThreads)
    count_kernel(const __grid_constant__ Problem p, const CudaIndices indices,
                 const bool with_bins) {
  const int64_t element = static_cast<int64_t>(blockIdx.x) * kIndexThreads + threadIdx.x;
  const int64_t length = p.sequences.length;
  const int64_t rows = p.sequences.batch;
  if (element < rows * p.k_heads * length) {
    const int64_t key_row = element / length, token = element % length;
    const int64_t row = key_row / p.k_heads;
    const Sequences::Range range = p.sequences.range(p.sequences.sequence_of(row, token));
    const int32_t j = *p.pattern.key_order.at<const int32_t>(row, key_row % p.k_heads, token);
    if (j >= 0 && j < range.length) {
      indices.key_rank[key_row * length + range.begin + j] =
          static_cast<int32_t>(token - range.begin);
    }
  }
  if (!with_bins || element >= rows * p.q_heads * length) return;
  const BinnedQuery q = find_bin(p, element);
  indices.per_query[element] = atomicAdd(indices.bin_begin + q.bin, 1);
  atomicMax(indices.longest_range + element / length, q.range_length);
}

// Counts of a row's bins become where they begin. A block takes a row.
__global__ void __launch_bounds__(kScanThreads)
    scan_kernel(const CudaIndices indices, const int64_t bins) {
  __shared__ int32_t warp_sums[kScanThreads / 32];
  int32_t* const row = indices.bin_begin + blockIdx.x * bins;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  constexpr int kItems = 8;
  int32_t before = 0;
  for (int64_t first = 0; first < bins; first += kScanThreads * kItems) {
    const int64_t begin = first + threadIdx.x * kItems;
    int32_t counts[kItems], total = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      counts[i] = begin + i < bins ? row[begin + i] : 0;
      total += counts[i];
    }
    int32_t sum = total;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int32_t other = __shfl_up_sync(0xffffffffu, sum, d);
      if (lane >= d) sum += other;
    }
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    int32_t warps = warp_sums[lane];
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int32_t other = __shfl_up_sync(0xffffffffu, warps, d);
      if (lane >= d) warps += other;
    }
    const int32_t all = __shfl_sync(0xffffffffu, warps, 31);
    const int32_t earlier_warps = __shfl_sync(0xffffffffu, warps, warp == 0 ? 0 : warp - 1);
    int32_t at = before + (warp == 0 ? 0 : earlier_warps) + sum - total;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (begin + i < bins) row[begin + i] = at;
      at += counts[i];
    }
    before += all;
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kIndexThreads)
    order_kernel(const __grid_constant__ Problem p, const CudaIndices indices) {
  const int64_t element = static_cast<int64_t>(blockIdx.x) * kIndexThreads + threadIdx.x;
  const int64_t length = p.sequences.length;
  if (element >= p.sequences.batch * p.q_heads * length) return;
  const BinnedQuery q = find_bin(p, element);
  const int64_t at = indices.bin_begin[q.bin] + indices.per_query[element];
  indices.query_order[element / length * length + at] = q.position;
}

// The latest eviction of a chunk's selected keys. A warp takes a chunk.
__global__ void __launch_bounds__(kIndexThreads)
    chunk_kernel(const __grid_constant__ Problem p, const CudaIndices indices) {
  constexpr int kWarps = kIndexThreads / 32;
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t places = Tiling{kChunkKeys}.places(p.sequences);
  const int64_t key_row = chunk / places;
  if (key_row >= p.sequences.batch * p.k_heads) return;
  const TileRange tile = find_tile(p.sequences, {kChunkKeys}, key_row / p.k_heads, chunk % places);
  const PatternView view(p.pattern, tile.range, key_row % p.k_heads);
  int32_t latest = 0;
#pragma unroll
  for (int i = 0; i < kChunkKeys / 32; ++i) {
    const int64_t j = tile.first + i * 32 + threadIdx.x % 32;
    if (j >= tile.last) continue;
    const uint32_t life = view.life(static_cast<int32_t>(j));
    if (life > 0) latest = max(latest, static_cast<int32_t>(j + life));
  }
  latest = __reduce_max_sync(0xffffffffu, latest);
  if (threadIdx.x % 32 == 0) indices.chunk_eviction[chunk] = latest;
}

inline constexpr int kListThreads = 1024;

// The selected keys of a stretch of queries. A block takes a list: it finds the chunks that may hold any, then goes
// through their keys, kListThreads at a time.
__global__ void __launch_bounds__(kListThreads)
    list_kernel(const __grid_constant__ Problem p, const CudaIndices indices) {
  constexpr int kChunksAtOnce = kListThreads / static_cast<int>(kChunkKeys);
  __shared__ int32_t chunks[kListThreads];
  __shared__ int32_t counts[kListThreads / 32];
  const int64_t places = Tiling{kListQueries}.places(p.sequences);
  const int64_t key_row = blockIdx.x / places;
  const TileRange tile =
      find_tile(p.sequences, {kListQueries}, key_row / p.k_heads, blockIdx.x % places);
  if (tile.first >= tile.last) return;
  const PatternView view(p.pattern, tile.range, key_row % p.k_heads);
  const int64_t chunk_row = key_row * Tiling{kChunkKeys}.places(p.sequences) +
                            Tiling{kChunkKeys}.first_place(p.sequences, tile.s, tile.range.begin);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  SelectedKey* const list = indices.lists + blockIdx.x * indices.list_capacity;

  // How many threads before this one have `mine`, and how many at all.
  struct Found {
    int32_t before, all;
  };
  const auto count = [&](bool mine) -> Found {
    const uint32_t votes = __ballot_sync(0xffffffffu, mine);
    if (lane == 0) counts[warp] = __popc(votes);
    __syncthreads();
    const int32_t own = counts[lane];
    const int32_t all = __reduce_add_sync(0xffffffffu, own);
    const int32_t before = __reduce_add_sync(0xffffffffu, lane < warp ? own : 0);
    __syncthreads();
    return {before + __popc(votes & ((1u << lane) - 1)), all};
  };

  int32_t length = 0;
  for (int64_t first = 0; first * kChunkKeys < tile.last; first += kListThreads) {
    const int64_t chunk = first + threadIdx.x;
    const bool holds =
        chunk * kChunkKeys < tile.last && indices.chunk_eviction[chunk_row + chunk] > tile.first;
    const Found found = count(holds);
    if (holds) chunks[found.before] = static_cast<int32_t>(chunk);
    __syncthreads();
    for (int32_t c = 0; c < found.all; c += kChunksAtOnce) {
      const int32_t number = c + static_cast<int32_t>(threadIdx.x / kChunkKeys);
      int32_t j = INT32_MAX;
      uint32_t life = 0;
      if (number < found.all) {
        j = chunks[number] * static_cast<int32_t>(kChunkKeys) +
            static_cast<int32_t>(threadIdx.x % kChunkKeys);
        if (j < tile.last) life = view.life(j);
      }
      const bool attended = life > 0 && j + static_cast<int64_t>(life) > tile.first;
      const Found keys = count(attended);
      if (attended && length + keys.before < indices.list_capacity) {
        list[length + keys.before] = {j, static_cast<int32_t>(j + life)};
      }
      length += keys.all;
      if (length > indices.list_capacity) break;
    }
    if (length > indices.list_capacity) break;
  }
  if (threadIdx.x == 0) indices.list_length[blockIdx.x] = length;
}

}  // namespace hax::sparse_attention
