// Rows that many blocks sort, a tile of tokens each.
#pragma once

#include "hash/lsh_bucket/lsh_bucket_kernel.cuh"

namespace hax::lsh_bucket {

inline constexpr int kTileThreads = static_cast<int>(kCudaTileTokens) / kRounds;
inline constexpr int kRangeThreads = 256;
inline constexpr int kRangeParts = static_cast<int>(kCudaTileTokens) / kRangeThreads;

// A block's tile of a long row.
struct Tile : SequenceTiles::Tile {
  int64_t head;
  int64_t row;  // of keys: its first element in the plan's (B, Hk, L)
  bool used;    // false: nothing to do

  __device__ Tile(const Params& p, int64_t heads, int64_t index = blockIdx.x)
      : SequenceTiles::Tile(p.cuda_tiles().at(index / heads)),
        head(index % heads),
        used(begin < end && range.length > kCudaShortTokens) {
    const int64_t key_head = head / (heads / p.key_heads);
    row = (range.row * p.key_heads + key_head) * p.sequences.length + range.begin;
  }
  __device__ int count() const { return static_cast<int>(end - begin); }
};

// Bits of a code that a row's table of starts tells apart: as many as give it no more entries than keys.
__device__ inline int start_bits(const Params& p, int64_t length) {
  return min(p.num_bits, 63 - __clzll(length));
}

// Code of the i-th key in the order that the digits before `index` have led to.
template <class K>
__device__ K code_at(const Params& p, const CudaPlan& plan, const Tile& tile, int index,
                     const CodeRow<K>& source, int64_t i) {
  return index == 0 ? source[i] : static_cast<const K*>(plan.codes[(index + 1) % 2])[tile.row + i];
}

// A block for every (slot of a tile, key head).
template <class K>
__global__ void __launch_bounds__(kTileThreads)
    count_kernel(const __grid_constant__ Params p, const __grid_constant__ CudaPlan plan,
                 int index) {
  __shared__ uint32_t counts[kDigitValues];
  const Tile tile(p, p.key_heads);
  if (!tile.used) return;
  if (threadIdx.x < kDigitValues) counts[threadIdx.x] = 0;
  __syncthreads();
  const Digit digit(p.num_bits, index);
  const CodeRow<K> source(p, p.code_k, tile.range, tile.head);
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int64_t i = tile.begin + round * kTileThreads + threadIdx.x;
    if (i < tile.end) atomicAdd(&counts[digit(code_at(p, plan, tile, index, source, i))], 1u);
  }
  __syncthreads();
  if (threadIdx.x < kDigitValues) {
    plan.counts[int64_t{blockIdx.x} * kDigitValues + threadIdx.x] = counts[threadIdx.x];
  }
}

// A block for every (sequence, key head): turns counts of each tile's digit values into the places of the first
// such keys. Those of the only digit are where codes start.
__global__ void __launch_bounds__(kTileThreads)
    place_kernel(const __grid_constant__ Params p, const __grid_constant__ CudaPlan plan) {
  __shared__ uint32_t sums[kTileThreads / kWarp];
  const int64_t s = blockIdx.x / p.key_heads, head = blockIdx.x % p.key_heads;
  const Sequences::Range range = p.sequences.range(s);
  const int64_t length = range.length;
  if (length <= kCudaShortTokens) return;
  const int64_t tiles = ceil_div(length, kCudaTileTokens);
  const int64_t next = p.key_heads * kDigitValues;
  uint32_t* counts = plan.counts +
                     (p.cuda_tiles().first_slot(s) * p.key_heads + head) * kDigitValues +
                     threadIdx.x;
  const bool used = threadIdx.x < kDigitValues;
  uint32_t total = 0;
  if (used) {
#pragma unroll 8
    for (int64_t tile = 0; tile < tiles; ++tile) total += counts[tile * next];
  }
  uint32_t place = sum_before(total, sums);
  if (!used) return;
  if (Digit::count(p.num_bits) == 1 && threadIdx.x < 1u << p.num_bits) {
    const int64_t row = (range.row * p.key_heads + head) * p.sequences.length + range.begin;
    plan.starts[row + threadIdx.x] = static_cast<int32_t>(place);
  }
#pragma unroll 8
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const uint32_t count = counts[tile * next];
    counts[tile * next] = place;
    place += count;
  }
}

// A block for every (slot of a tile, key head): moves keys to their places.
template <class K>
__global__ void __launch_bounds__(kTileThreads)
    move_kernel(const __grid_constant__ Params p, const __grid_constant__ CudaPlan plan,
                int index) {
  __shared__ Histogram<kTileThreads> histogram;
  const Tile tile(p, p.key_heads);
  if (!tile.used) return;
  const Digit digit(p.num_bits, index);
  const CodeRow<K> source(p, p.code_k, tile.range, tile.head);
  const int rounds = (tile.count() + kTileThreads - 1) / kTileThreads;
  const int64_t first = tile.begin + threadIdx.x / kWarp * rounds * kWarp + threadIdx.x % kWarp;
  const auto used = [&](int round) { return first + round * kWarp < tile.end; };
  const int32_t* from = plan.positions[(index + 1) % 2] + tile.row;
  K code[kRounds];
  int32_t position[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int64_t i = first + round * kWarp;
    if (round >= rounds || i >= tile.end) continue;
    code[round] = code_at(p, plan, tile, index, source, i);
    position[round] = index == 0 ? static_cast<int32_t>(i) : from[i];
  }
  const uint32_t* counts = plan.counts + int64_t{blockIdx.x} * kDigitValues;
  uint32_t places[kRounds];
  rank_by_digit<kTileThreads>(
      places, histogram, rounds, used, [&](int round) { return digit(code[round]); },
      [&](uint32_t value, uint32_t) { return value < kDigitValues ? counts[value] : 0u; });
  const bool last = index + 1 == Digit::count(p.num_bits);
  K* codes = static_cast<K*>(plan.codes[index % 2]) + tile.row;
  int32_t* positions = last ? p.key_order.at<int32_t>(tile.range.row, tile.head, tile.range.begin)
                            : plan.positions[index % 2] + tile.row;
  const int64_t stride = last ? p.key_order.stride[2] : 1;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    if (round >= rounds || !used(round)) continue;
    codes[places[round]] = code[round];
    positions[places[round] * stride] = position[round];
  }
}

// A block for every (slot of a tile, key head): where in the sorted row codes with the same highest bits start.
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

// Blocks for every (slot of a tile, query head, part of the tile), a thread for every query.
template <class K>
__global__ void __launch_bounds__(kRangeThreads)
    range_kernel(const __grid_constant__ Params p, const __grid_constant__ CudaPlan plan) {
  const Tile tile(p, p.query_heads, blockIdx.x / kRangeParts);
  const int64_t t = tile.begin + blockIdx.x % kRangeParts * kRangeThreads + threadIdx.x;
  if (!tile.used || t >= tile.end) return;
  const Sequences::Range& range = tile.range;
  const int length = static_cast<int>(range.length), bits = start_bits(p, length);
  const bool exact = bits == p.num_bits;  // an entry's keys all have one code
  const K* codes = static_cast<const K*>(plan.codes[(Digit::count(p.num_bits) + 1) % 2]) + tile.row;
  const int32_t* starts = plan.starts + tile.row;
  const int64_t key_head = tile.head / (p.query_heads / p.key_heads);
  const int32_t* order = p.key_order.at<int32_t>(range.row, key_head, range.begin);
  const int64_t stride = p.key_order.stride[2];
  const K code = CodeRow<K>(p, p.code_q, range, tile.head)[t];
  const int64_t entry = static_cast<int64_t>(code >> (p.num_bits - bits));
  const int low = starts[entry];
  const int high = entry + 1 < int64_t{1} << bits ? starts[entry + 1] : length;
  const int end = first_where(low, high, [&](int i) {
    if (!exact && codes[i] != code) return codes[i] > code;
    return order[i * stride] > t;
  });
  int begin = static_cast<int>(max(int64_t{low}, end - p.budget));
  if (!exact) begin = first_where(begin, end, [&](int i) { return codes[i] >= code; });
  *p.begin.at<int32_t>(range.row, tile.head, range.begin + t) = begin;
  *p.end.at<int32_t>(range.row, tile.head, range.begin + t) = end;
}

}  // namespace hax::lsh_bucket
