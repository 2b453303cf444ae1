// The queries' ranges in long rows that are sorted.
#pragma once

#include "hash/lsh_bucket/lsh_bucket_kernel_long.cuh"

namespace hax::lsh_bucket {

// A block for every (slot of a tile, key head): where in the sorted row codes with the same highest
// bits start.
template <class K>
__global__ void __launch_bounds__(kTileThreads)
    starts_kernel(const __grid_constant__ Params p, const __grid_constant__ CudaPlan plan) {
  const Tile tile(p, p.key_heads);
  if (!tile.used) return;
  const int lane = threadIdx.x % kWarp;
  const int bits = start_bits(p, tile.range.length);
  const K* codes = static_cast<const K*>(plan.codes[(Digit::count(p.num_bits) + 1) % 2]) + tile.row;
  int32_t* starts = plan.starts + tile.row;
  const auto entry = [&](int64_t i) {
    return static_cast<int64_t>(codes[i] >> (p.num_bits - bits));
  };
  const auto fill = [&](int64_t low, int64_t high, int64_t value) {
    for (int64_t e = low + lane; e < high; e += kWarp) starts[e] = static_cast<int32_t>(value);
  };
  for (int64_t i = tile.begin + threadIdx.x; i - lane < tile.end; i += kTileThreads) {
    const bool present = i < tile.end;
    const int64_t own = present ? entry(i) : 0;
    const int64_t former = present && i > 0 ? entry(i - 1) : -1;
    // Most gaps are short; long ones are filled by the whole warp.
    const bool wide = present && own - former > 8;
    if (present && !wide) {
      for (int64_t e = former + 1; e <= own; ++e) starts[e] = static_cast<int32_t>(i);
    }
    for (uint32_t left = __ballot_sync(0xffffffffu, wide); left != 0; left &= left - 1) {
      const int from = __ffs(static_cast<int>(left)) - 1;
      fill(__shfl_sync(0xffffffffu, former, from) + 1, __shfl_sync(0xffffffffu, own, from) + 1,
           i - lane + from);
    }
    if (i - lane + kWarp >= tile.range.length) {
      fill(entry(tile.range.length - 1) + 1, int64_t{1} << bits, tile.range.length);
    }
  }
}

// Blocks for every (slot of a tile, query head, part of the tile), a thread for every kRangeQueries
// queries.
template <class K>
__global__ void __launch_bounds__(kRangeThreads)
    range_kernel(const __grid_constant__ Params p, const __grid_constant__ CudaPlan plan) {
  const Tile tile(p, p.query_heads, blockIdx.x / kRangeParts);
  if (!tile.used) return;
  const Sequences::Range& range = tile.range;
  const int length = static_cast<int>(range.length), bits = start_bits(p, length);
  const bool exact = bits == p.num_bits;  // an entry's keys all have one code
  const K* codes = static_cast<const K*>(plan.codes[(Digit::count(p.num_bits) + 1) % 2]) + tile.row;
  const int32_t* starts = plan.starts + tile.row;
  const int64_t key_head = tile.head / (p.query_heads / p.key_heads);
  const int32_t* order = p.key_order.at<int32_t>(range.row, key_head, range.begin);
  const int64_t stride = p.key_order.stride[2];
  const CodeRow<K> queries(p, p.code_q, range, tile.head);
  const int64_t t0 =
      tile.begin + blockIdx.x % kRangeParts * kRangeThreads * kRangeQueries + threadIdx.x;
  K code[kRangeQueries];
  int start[kRangeQueries], low[kRangeQueries], high[kRangeQueries];
#pragma unroll
  for (int q = 0; q < kRangeQueries; ++q) {
    const int64_t t = t0 + q * kRangeThreads;
    code[q] = t < tile.end ? queries[t] : 0;
  }
#pragma unroll
  for (int q = 0; q < kRangeQueries; ++q) {
    const int64_t entry = static_cast<int64_t>(code[q] >> (p.num_bits - bits));
    start[q] = low[q] = starts[entry];
    high[q] = entry + 1 < int64_t{1} << bits ? starts[entry + 1] : length;
  }
  bool going = true;
  while (going) {
    going = false;
#pragma unroll
    for (int q = 0; q < kRangeQueries; ++q) {
      if (low[q] >= high[q]) continue;
      const int middle = low[q] + (high[q] - low[q]) / 2;
      const bool same = exact || codes[middle] == code[q];
      const bool beyond =
          same ? order[middle * stride] > t0 + q * kRangeThreads : codes[middle] > code[q];
      if (beyond) {
        high[q] = middle;
      } else {
        low[q] = middle + 1;
      }
      going |= low[q] < high[q];
    }
  }
#pragma unroll
  for (int q = 0; q < kRangeQueries; ++q) {
    const int64_t t = t0 + q * kRangeThreads;
    if (t >= tile.end) continue;
    const int end = low[q];
    int begin = static_cast<int>(max(int64_t{start[q]}, end - p.budget));
    if (!exact) begin = first_where(begin, end, [&](int i) { return codes[i] >= code[q]; });
    *p.begin.at<int32_t>(range.row, tile.head, range.begin + t) = begin;
    *p.end.at<int32_t>(range.row, tile.head, range.begin + t) = end;
  }
}

}  // namespace hax::lsh_bucket
