// Preparation of the indices that sparse_attention_cuda.hpp describes.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_short.cuh"

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

// A thread's token of a row of queries or keys: blocks go through the rows one after the other.
struct RowToken {
  uint32_t row;
  int64_t token;
  __device__ RowToken(uint32_t of_row, int64_t at) : row(of_row), token(at) {}
  __device__ explicit RowToken(int64_t length) {
    const auto blocks = static_cast<uint32_t>((length + kIndexThreads - 1) / kIndexThreads);
    row = blockIdx.x / blocks;
    token = static_cast<int64_t>(blockIdx.x % blocks) * kIndexThreads + threadIdx.x;
  }
};

// Several of them, so that a thread has more than one load under way.
inline constexpr int kIndexItems = 4;
inline constexpr int64_t kIndexTokens = kIndexThreads * kIndexItems;  // of a block
struct RowTokens {
  uint32_t row;
  int64_t first;
  __device__ explicit RowTokens(int64_t length) {
    const auto blocks = static_cast<uint32_t>((length + kIndexTokens - 1) / kIndexTokens);
    row = blockIdx.x / blocks;
    first = blockIdx.x % blocks * kIndexTokens + threadIdx.x;
  }
  __device__ int64_t token(int k) const { return first + k * kIndexThreads; }
};

// A query and its bin.
struct BinnedQuery {
  int64_t bin;  // element of bin_begin
  int32_t position, range_length;

  __device__ BinnedQuery(const Problem& p, const RowToken& at) {
    const auto heads = static_cast<uint32_t>(p.q_heads);
    const int64_t row = at.row / heads;
    const int64_t s = p.sequences.sequence_of(row, at.token);
    const Sequences::Range range = p.sequences.range(s);
    position = static_cast<int32_t>(at.token - range.begin);
    const Query query = read_query(p.pattern, range, position, at.row % heads);
    range_length = query.end - query.begin;
    bin = at.row * bins_of(p.sequences) +
          Tiling{kBinEnds}.first_place(p.sequences, s, range.begin) + query.end / kBinEnds;
  }
};

// Ranges are mostly as long as their budget, so few queries have to write.
__device__ inline void raise_longest(int32_t* longest, int32_t length) {
  if (length > *static_cast<volatile int32_t*>(longest)) atomicMax(longest, length);
}

// Counts each bin's queries and gives every query a place among its bin's.
__global__ void __launch_bounds__(kIndexThreads)
    count_kernel(const __grid_constant__ Problem p, const CudaIndices indices) {
  const RowToken at(p.sequences.length);
  if (at.token >= p.sequences.length) return;
  const BinnedQuery q(p, at);
  indices.per_query[at.row * p.sequences.length + at.token] =
      atomicAdd(indices.bin_begin + q.bin, 1);
  raise_longest(indices.longest_range + at.row, q.range_length);
}

inline constexpr int kSharedBins = 8448;  // of a row, for the kernel below
inline constexpr int kSharedThreads = 1024;
inline constexpr int kSharedItems = 8;
inline constexpr int64_t kSharedQueries = int64_t{kSharedThreads} * kSharedItems;

// The same for rows of few bins: a block counts its queries in shared memory, and then adds up whole bins, neighbours by
// neighbouring threads.
__global__ void __launch_bounds__(kSharedThreads)
    count_shared_kernel(const __grid_constant__ Problem p, const CudaIndices indices) {
  __shared__ int32_t counts[kSharedBins];
  const int64_t length = p.sequences.length, bins = bins_of(p.sequences);
  const auto blocks = static_cast<uint32_t>((length + kSharedQueries - 1) / kSharedQueries);
  const uint32_t row = blockIdx.x / blocks;
  const int64_t first = blockIdx.x % blocks * kSharedQueries + threadIdx.x;
  for (int32_t b = threadIdx.x; b < bins; b += kSharedThreads) counts[b] = 0;
  __syncthreads();
  int32_t bin[kSharedItems], place[kSharedItems], longest = 0;
#pragma unroll
  for (int k = 0; k < kSharedItems; ++k) {
    const RowToken at{row, first + k * kSharedThreads};
    bin[k] = -1;
    if (at.token >= length) continue;
    const BinnedQuery q(p, at);
    bin[k] = static_cast<int32_t>(q.bin - row * bins);
    longest = max(longest, q.range_length);
  }
#pragma unroll
  for (int k = 0; k < kSharedItems; ++k) {
    if (bin[k] >= 0) place[k] = atomicAdd(&counts[bin[k]], 1);
  }
  longest = __reduce_max_sync(0xffffffffu, longest);
  if (threadIdx.x % 32 == 0) raise_longest(indices.longest_range + row, longest);
  __syncthreads();
  for (int32_t b = threadIdx.x; b < bins; b += kSharedThreads) {
    const int32_t own = counts[b];
    if (own > 0) counts[b] = atomicAdd(indices.bin_begin + row * bins + b, own);
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kSharedItems; ++k) {
    if (bin[k] < 0) continue;
    indices.per_query[row * length + first + k * kSharedThreads] = counts[bin[k]] + place[k];
  }
}

// Inverts key_order.
__global__ void __launch_bounds__(kIndexThreads)
    rank_kernel(const __grid_constant__ Problem p, const CudaIndices indices) {
  const int64_t length = p.sequences.length;
  const auto heads = static_cast<uint32_t>(p.k_heads);
  const RowTokens at(length);
  const int64_t row = at.row / heads;
  int32_t keys[kIndexItems];  // all are asked for before any is waited for
#pragma unroll
  for (int k = 0; k < kIndexItems; ++k) {
    const int64_t token = at.token(k);
    keys[k] =
        token < length ? *p.pattern.key_order.at<const int32_t>(row, at.row % heads, token) : -1;
  }
#pragma unroll
  for (int k = 0; k < kIndexItems; ++k) {
    const int64_t token = at.token(k);
    if (token >= length) break;
    const Sequences::Range range = p.sequences.range(p.sequences.sequence_of(row, token));
    if (keys[k] < 0 || keys[k] >= range.length) continue;
    indices.key_rank[at.row * length + range.begin + keys[k]] =
        static_cast<int32_t>(token - range.begin);
  }
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
  const int64_t length = p.sequences.length;
  const RowTokens at(length);
  int32_t positions[kIndexItems], places[kIndexItems];
#pragma unroll
  for (int k = 0; k < kIndexItems; ++k) {
    const int64_t token = min(at.token(k), length - 1);
    const BinnedQuery q(p, {at.row, token});
    positions[k] = q.position;
    places[k] = indices.bin_begin[q.bin] + indices.per_query[at.row * length + token];
  }
#pragma unroll
  for (int k = 0; k < kIndexItems; ++k) {
    if (at.token(k) < length) indices.query_order[at.row * length + places[k]] = positions[k];
  }
}

// Short sequences. A block takes a sequence and a head, first of the queries, then of the keys.
__global__ void __launch_bounds__(kShortThreads)
    short_kernel(const __grid_constant__ Problem p, const CudaIndices indices,
                 const CudaLists lists) {
  __shared__ union {
    ShortQueries queries;
    ShortKeys keys;
  } shared;
  const auto heads = static_cast<uint32_t>(p.q_heads + p.k_heads);
  const int64_t s = blockIdx.x / heads, head = blockIdx.x % heads;
  const Sequences::Range range = p.sequences.range(s);
  if (range.length <= 0 || range.length > kDenseLength) return;
  if (head < p.q_heads) return order_short_queries(p, range, head, indices, lists, shared.queries);
  rank_short_keys(p, range, head - p.q_heads, indices);
  if (lists.selected) list_short_keys(p, s, range, head - p.q_heads, lists, shared.keys);
}

}  // namespace hax::sparse_attention
