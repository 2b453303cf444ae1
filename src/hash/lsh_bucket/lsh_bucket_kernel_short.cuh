// Rows that a block sorts in shared memory.
#pragma once

#include "hash/lsh_bucket/lsh_bucket_kernel.cuh"

namespace hax::lsh_bucket {

inline constexpr int kShortThreads = static_cast<int>(kCudaShortTokens) / kRounds;
inline constexpr int kPositionBits = 12;
static_assert(kCudaShortTokens == 1 << kPositionBits);

// A key as one number that sorts by code, then position, where both fit into 32 bits; else as two.
struct JointKey {
  uint32_t value;

  static constexpr int kMaxBits = 32 - kPositionBits;
  using Code = uint32_t;
  JointKey() = default;
  __device__ JointKey(Code code, uint32_t position) : value(code << kPositionBits | position) {}
  __device__ Code code() const { return value >> kPositionBits; }
  __device__ int position() const { return value & ((1 << kPositionBits) - 1); }
  __device__ bool operator<(const JointKey& other) const { return value < other.value; }
};
struct SplitKey {
  uint64_t first;
  uint32_t second;

  static constexpr int kMaxBits = 64;
  using Code = uint64_t;
  SplitKey() = default;
  __device__ SplitKey(Code code, uint32_t position) : first(code), second(position) {}
  __device__ Code code() const { return first; }
  __device__ int position() const { return static_cast<int>(second); }
  __device__ bool operator<(const SplitKey& other) const {
    return first < other.first || (first == other.first && second < other.second);
  }
};

template <class Key>
struct ShortMemory {
  Key keys[kCudaShortTokens];
  Histogram<kShortThreads> histogram;
  uint32_t sums[kShortThreads / kWarp];
};

// The threads' share of a row: tokens in order of warp, then round, then lane.
struct Share {
  int count, rounds, first;

  __device__ explicit Share(int64_t length)
      : count(static_cast<int>(length)),
        rounds((count + kShortThreads - 1) / kShortThreads),
        first(static_cast<int>(threadIdx.x) / kWarp * rounds * kWarp +
              static_cast<int>(threadIdx.x) % kWarp) {}
  __device__ int place(int round) const { return first + round * kWarp; }
  __device__ bool used(int round) const { return round < rounds && place(round) < count; }
};

template <class Key>
__device__ void sort_short(const Params& p, const Share& share, Key (&key)[kRounds],
                           ShortMemory<Key>& shared) {
  const int digits = Digit::count(p.num_bits);
  for (int i = 0; i < digits; ++i) {
    const Digit digit(p.num_bits, i);
    uint32_t places[kRounds];
    rank_by_digit<kShortThreads>(
        places, shared.histogram, share.rounds, digit.width,
        [&](int round) { return share.used(round); },
        [&](int round) { return digit(key[round].code()); },
        [&](uint32_t, uint32_t total) { return sum_before(total, shared.sums); });
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (share.used(round)) shared.keys[places[round]] = key[round];
    }
    __syncthreads();
    if (i + 1 == digits) break;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (share.used(round)) key[round] = shared.keys[share.place(round)];
    }
    __syncthreads();
  }
}

// How many of the keys, sorted, are less than each of a thread's: all searches go on side by side.
template <class Key>
__device__ void count_below(int (&below)[kRounds], const Key* keys, const Key (&key)[kRounds],
                            const Share& share) {
#pragma unroll
  for (int round = 0; round < kRounds; ++round) below[round] = 0;
  for (int step = kCudaShortTokens / 2; step > 0; step /= 2) {
    if (step > share.count) continue;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (round >= share.rounds) break;
      const int next = below[round] + step;
      if (next <= share.count && keys[next - 1] < key[round]) below[round] = next;
    }
  }
#pragma unroll
  for (int round = 0; round < kRounds;
       ++round) {  // the steps add up to one less than the longest row
    if (round >= share.rounds) break;
    below[round] += below[round] < share.count && keys[below[round]] < key[round];
  }
}

// A key head of a sequence, with its query heads. By all threads of a block.
template <class Key>
__device__ void bucket_short(const Params& p, const Sequences::Range& range, int64_t key_head,
                             ShortMemory<Key>& shared) {
  const Share share(range.length);
  const int64_t group = p.query_heads / p.key_heads;
  const auto load = [&](Key(&key)[kRounds], const Tensor& code, int64_t head) {
    const CodeRow<typename Key::Code> row(p, code, range, head);
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int t = share.place(round);
      if (share.used(round)) key[round] = Key(row[t], t);
    }
  };
  Key key[kRounds], query[kRounds];
  load(key, p.code_k, key_head);
  if (group > 0) load(query, p.code_q, key_head * group);
  sort_short(p, share, key, shared);
  for (int i = threadIdx.x; i < share.count; i += kShortThreads) {
    *p.key_order.at<int32_t>(range.row, key_head, range.begin + i) = shared.keys[i].position();
  }
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    if (head > key_head * group) load(query, p.code_q, head);
    Key first[kRounds];
    int begin[kRounds], end[kRounds];
#pragma unroll
    for (int round = 0; round < kRounds; ++round) first[round] = Key(query[round].code(), 0);
    count_below(begin, shared.keys, first, share);
    count_below(end, shared.keys, query, share);
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (!share.used(round)) continue;
      const int t = share.place(round);
      // The key at the query's own position counts too, if its code is the same.
      const int last =
          end[round] + (end[round] < share.count && !(query[round] < shared.keys[end[round]]));
      const int64_t earliest = last - p.budget;
      *p.begin.at<int32_t>(range.row, head, range.begin + t) =
          earliest > begin[round] ? static_cast<int>(earliest) : begin[round];
      *p.end.at<int32_t>(range.row, head, range.begin + t) = last;
    }
  }
}

// A block for every (sequence, key head).
template <class Key>
__global__ void __launch_bounds__(kShortThreads) short_kernel(const __grid_constant__ Params p) {
  extern __shared__ uint4 memory[];
  device::wait_for_previous();
  device::start_next();
  const Sequences::Range range = p.sequences.range(blockIdx.x / p.key_heads);
  if (range.length == 0 || range.length > kCudaShortTokens) return;
  bucket_short(p, range, blockIdx.x % p.key_heads, *reinterpret_cast<ShortMemory<Key>*>(memory));
}

}  // namespace hax::lsh_bucket
