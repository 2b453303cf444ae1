// What lsh_bucket's CUDA kernels share: codes, a block's stable ranks by digit, and search.
#pragma once

#include "device/early_start.cuh"
#include "device/warp.cuh"
#include "hash/lsh_bucket/lsh_bucket.hpp"

namespace hax::lsh_bucket {

using device::kWarp;

inline constexpr int kRounds = 8;  // keys of a thread, at most

// Codes of one head of a sequence. Bits that a code can't have are dropped, so that wrong codes
// stay harmless.
template <class K>
struct CodeRow {
  const int64_t* at;
  int64_t stride;
  uint64_t mask;

  __device__ CodeRow(const Params& p, const Tensor& code, const Sequences::Range& range,
                     int64_t head)
      : at(code.at<int64_t>(range.row, head, range.begin)),
        stride(code.stride[2]),
        mask((uint64_t{1} << p.num_bits) - 1) {}
  __device__ K operator[](int64_t t) const { return static_cast<K>(at[t * stride] & mask); }
};

// Digits of equal width, lowest first.
struct Digit {
  int shift, width;

  __host__ __device__ static int count(int num_bits) {
    return (num_bits + kDigitBits - 1) / kDigitBits;
  }
  __host__ __device__ Digit(int num_bits, int index) {
    width = (num_bits + count(num_bits) - 1) / count(num_bits);
    shift = index * width;
  }
  template <class K>
  __device__ uint32_t operator()(K code) const {
    return static_cast<uint32_t>(code >> shift) & ((1u << width) - 1);
  }
};

// Lanes of the warp with the same digit. By votes: __match_any_sync takes time for every different
// value.
__device__ inline uint32_t lanes_with(uint32_t digit, int width, bool present) {
  uint32_t peers = __ballot_sync(0xffffffffu, present);
  for (int bit = 0; bit < width; ++bit) {
    const bool set = digit >> bit & 1;
    const uint32_t votes = __ballot_sync(0xffffffffu, set);
    peers &= set ? votes : ~votes;
  }
  return peers;
}

template <int Threads>
using Histogram = uint32_t[Threads / kWarp][kDigitValues];

// Ranks a block's keys by digit, stably. Keys lie in order of warp, then round, then lane; `used`
// says which there are. place(digit value, its keys in the block) answers where in the row those
// start, called by thread `digit value`. Answers each key's place in the row.
template <int Threads, class Used, class DigitOf, class Place>
__device__ void rank_by_digit(uint32_t (&places)[kRounds], Histogram<Threads>& histogram,
                              int rounds, int width, Used&& used, DigitOf&& digit_of,
                              Place&& place) {
  static_assert(Threads >= kDigitValues);
  constexpr int kWarps = Threads / kWarp;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int i = threadIdx.x; i < kWarps * kDigitValues; i += Threads) {
    histogram[i / kDigitValues][i % kDigitValues] = 0;
  }
  __syncthreads();
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    if (round >= rounds) break;
    const bool present = used(round);
    const uint32_t digit = present ? digit_of(round) : 0;
    const uint32_t peers = lanes_with(digit, width, present);
    const uint32_t before = __popc(peers & ((1u << lane) - 1));
    const uint32_t base = present ? histogram[warp][digit] : 0;
    places[round] = base + before;
    __syncwarp();
    if (present && before == 0) histogram[warp][digit] = base + __popc(peers);
    __syncwarp();
  }
  __syncthreads();
  uint32_t total = 0;
  if (threadIdx.x < kDigitValues) {
    for (int w = 0; w < kWarps; ++w) total += histogram[w][threadIdx.x];
  }
  uint32_t start = place(threadIdx.x, total);  // by all threads, as it may wait for them
  if (threadIdx.x < kDigitValues) {
    for (int w = 0; w < kWarps; ++w) {
      const uint32_t count = histogram[w][threadIdx.x];
      histogram[w][threadIdx.x] = start;
      start += count;
    }
  }
  __syncthreads();
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    if (round < rounds && used(round)) places[round] += histogram[warp][digit_of(round)];
  }
}

// Sum of the values of the threads before this one, by all threads. sums: one a warp, in shared
// memory.
__device__ inline uint32_t sum_before(uint32_t value, uint32_t* sums) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  uint32_t inclusive = value;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const uint32_t other = __shfl_up_sync(0xffffffffu, inclusive, distance);
    if (lane >= distance) inclusive += other;
  }
  __syncthreads();
  if (lane == kWarp - 1) sums[warp] = inclusive;
  __syncthreads();
  uint32_t before = inclusive - value;
  for (int w = 0; w < warp; ++w) before += sums[w];
  return before;
}

// First index of [low, high) where `beyond` holds, which holds for all later ones too; `high` if
// for none.
template <class F>
__device__ int first_where(int low, int high, F&& beyond) {
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (beyond(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

}  // namespace hax::lsh_bucket
