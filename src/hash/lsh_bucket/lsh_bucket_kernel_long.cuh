// Rows that many blocks sort, a tile of tokens each.
#pragma once

#include "hash/lsh_bucket/lsh_bucket_kernel.cuh"

namespace hax::lsh_bucket {

inline constexpr int kTileThreads = static_cast<int>(kCudaTileTokens) / kRounds;
inline constexpr int64_t kDirectTiles = 64;  // of a row, whose counts every block adds up by itself
inline constexpr int kPlaceThreads = 1024;
inline constexpr int kRangeThreads = 256;
inline constexpr int kRangeQueries = 2;  // of a thread, looked up side by side
inline constexpr int kRangeParts =
    static_cast<int>(kCudaTileTokens) / (kRangeThreads * kRangeQueries);

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

// Bits of a code that a row's table of starts tells apart: as many as give it no more entries than
// keys.
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
  K code[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int64_t i = tile.begin + round * kTileThreads + threadIdx.x;
    if (i < tile.end) code[round] = code_at(p, plan, tile, index, source, i);
  }
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int64_t i = tile.begin + round * kTileThreads + threadIdx.x;
    if (i < tile.end) atomicAdd(&counts[digit(code[round])], 1u);
  }
  __syncthreads();
  if (threadIdx.x < kDigitValues) {
    plan.counts[int64_t{blockIdx.x} * kDigitValues + threadIdx.x] = counts[threadIdx.x];
  }
}

// A block for every (sequence, key head) of more than kDirectTiles tiles: turns counts of each
// tile's digit values into the places of the first such keys. Those of the only digit are where
// codes start.
__global__ void __launch_bounds__(kPlaceThreads)
    place_kernel(const __grid_constant__ Params p, const __grid_constant__ CudaPlan plan) {
  constexpr int kGroups = kPlaceThreads / kDigitValues;  // of threads, each with some of the tiles
  __shared__ uint32_t sums[kPlaceThreads / kWarp];
  __shared__ uint32_t totals[kGroups][kDigitValues];
  const int64_t s = blockIdx.x / p.key_heads, head = blockIdx.x % p.key_heads;
  const Sequences::Range range = p.sequences.range(s);
  if (range.length <= kDirectTiles * kCudaTileTokens) return;
  const int tiles = static_cast<int>(ceil_div(range.length, kCudaTileTokens));
  const int value = threadIdx.x % kDigitValues, group = threadIdx.x / kDigitValues;
  const int first = tiles * group / kGroups, last = tiles * (group + 1) / kGroups;
  const int64_t next = p.key_heads * kDigitValues;
  uint32_t* counts =
      plan.counts + (p.cuda_tiles().first_slot(s) * p.key_heads + head) * kDigitValues + value;
  uint32_t total = 0;
#pragma unroll 8
  for (int tile = first; tile < last; ++tile) total += counts[tile * next];
  totals[group][value] = total;
  __syncthreads();
  uint32_t all = 0, place = 0;
  for (int g = 0; g < kGroups; ++g) {
    place += g < group ? totals[g][value] : 0;
    all += totals[g][value];
  }
  const uint32_t start = sum_before(group == 0 ? all : 0, sums);
  __syncthreads();
  if (group == 0) totals[0][value] = start;
  __syncthreads();
  place += totals[0][value];
  if (Digit::count(p.num_bits) == 1 && threadIdx.x < 1u << p.num_bits) {
    const int64_t row = (range.row * p.key_heads + head) * p.sequences.length + range.begin;
    plan.starts[row + threadIdx.x] = static_cast<int32_t>(place);
  }
#pragma unroll 8
  for (int tile = first; tile < last; ++tile) {
    const uint32_t count = counts[tile * next];
    counts[tile * next] = place;
    place += count;
  }
}

// Where in the row the tile's keys of a digit value start, by thread `value` of all. In rows of few
// tiles every block adds up the counts by itself.
__device__ inline uint32_t first_place(const Params& p, const CudaPlan& plan, const Tile& tile,
                                       uint32_t value, uint32_t* sums) {
  const uint32_t* counts = plan.counts + int64_t{blockIdx.x} * kDigitValues + value;
  const bool used = value < kDigitValues;
  if (tile.range.length > kDirectTiles * kCudaTileTokens) return used ? counts[0] : 0;
  const int tiles = static_cast<int>(ceil_div(tile.range.length, kCudaTileTokens));
  const int own = static_cast<int>(tile.begin / kCudaTileTokens);
  const int64_t next = p.key_heads * kDigitValues;
  uint32_t before = 0, total = 0;
#pragma unroll 16
  for (int i = 0; i < tiles; ++i) {
    const uint32_t count = used ? counts[(i - own) * next] : 0;
    total += count;
    if (i < own) before += count;
  }
  const uint32_t start = sum_before(total, sums);
  if (own == 0 && Digit::count(p.num_bits) == 1 && value < 1u << p.num_bits) {
    plan.starts[tile.row + value] = static_cast<int32_t>(start);
  }
  return start + before;
}

template <class K>
struct MoveMemory {
  Histogram<kTileThreads> histogram;
  uint32_t sums[kTileThreads / kWarp];
  uint32_t shift[kDigitValues];  // from a key's place in the sorted tile to that in the row
  K codes[kCudaTileTokens];
  int32_t positions[kCudaTileTokens];
};

// A block for every (slot of a tile, key head): moves keys to their places, sorted within the tile
// first so that neighbours are written together.
template <class K>
__global__ void __launch_bounds__(kTileThreads)
    move_kernel(const __grid_constant__ Params p, const __grid_constant__ CudaPlan plan,
                int index) {
  __shared__ MoveMemory<K> shared;
  const Tile tile(p, p.key_heads);
  if (!tile.used) return;
  const Digit digit(p.num_bits, index);
  const CodeRow<K> source(p, p.code_k, tile.range, tile.head);
  const int count = tile.count(), rounds = (count + kTileThreads - 1) / kTileThreads;
  const int first = threadIdx.x / kWarp * rounds * kWarp + threadIdx.x % kWarp;
  const auto used = [&](int round) { return first + round * kWarp < count; };
  const int32_t* from = plan.positions[(index + 1) % 2] + tile.row;
  K code[kRounds];
  int32_t position[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    if (round >= rounds || !used(round)) continue;
    const int64_t i = tile.begin + first + round * kWarp;
    code[round] = code_at(p, plan, tile, index, source, i);
    position[round] = index == 0 ? static_cast<int32_t>(i) : from[i];
  }
  uint32_t places[kRounds];
  rank_by_digit<kTileThreads>(
      places, shared.histogram, rounds, digit.width, used,
      [&](int round) { return digit(code[round]); },
      [&](uint32_t value, uint32_t total) {
        const uint32_t start = sum_before(total, shared.sums);
        const uint32_t place = first_place(p, plan, tile, value, shared.sums);
        if (value < kDigitValues) shared.shift[value] = place - start;
        return start;
      });
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    if (round >= rounds || !used(round)) continue;
    shared.codes[places[round]] = code[round];
    shared.positions[places[round]] = position[round];
  }
  __syncthreads();
  const bool last = index + 1 == Digit::count(p.num_bits);
  K* codes = static_cast<K*>(plan.codes[index % 2]) + tile.row;
  int32_t* positions = last ? p.key_order.at<int32_t>(tile.range.row, tile.head, tile.range.begin)
                            : plan.positions[index % 2] + tile.row;
  const int64_t stride = last ? p.key_order.stride[2] : 1;
  const bool single = Digit::count(p.num_bits) == 1;  // whose sorted codes nobody needs
#pragma unroll 4
  for (int i = threadIdx.x; i < count; i += kTileThreads) {
    const K moved = shared.codes[i];
    const uint32_t place = i + shared.shift[digit(moved)];
    if (!single) codes[place] = moved;
    positions[place * stride] = shared.positions[i];
  }
}

}  // namespace hax::lsh_bucket
