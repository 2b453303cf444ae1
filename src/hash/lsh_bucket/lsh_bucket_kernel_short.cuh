// Rows that a block sorts in shared memory.
#pragma once

#include "hash/lsh_bucket/lsh_bucket_kernel.cuh"

namespace hax::lsh_bucket {

template <class K>
struct ShortMemory {
  K codes[kCudaShortTokens];
  int32_t positions[kCudaShortTokens];
  Histogram histogram;
  uint32_t sums[kWarps];
};

template <class K>
__device__ void sort_short(const Params& p, const Sequences::Range& range, int64_t head,
                           ShortMemory<K>& shared) {
  const int count = static_cast<int>(range.length);
  const int rounds = (count + kThreads - 1) / kThreads;
  const int first = static_cast<int>(threadIdx.x) / kWarp * rounds * kWarp +
                    static_cast<int>(threadIdx.x) % kWarp;
  const CodeRow<K> source(p, p.code_k, range, head);
  const auto used = [&](int round) { return first + round * kWarp < count; };
  K code[kRounds];
  int32_t position[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    position[round] = first + round * kWarp;
    code[round] = round < rounds && used(round) ? source[position[round]] : 0;
  }
  const int digits = Digit::count(p.num_bits);
  for (int i = 0; i < digits; ++i) {
    const Digit digit(p.num_bits, i);
    uint32_t places[kRounds];
    rank_by_digit(
        places, shared.histogram, rounds, used, [&](int round) { return digit(code[round]); },
        [&](uint32_t, uint32_t total) { return sum_before(total, shared.sums); });
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (round >= rounds || !used(round)) continue;
      shared.codes[places[round]] = code[round];
      shared.positions[places[round]] = position[round];
    }
    __syncthreads();
    if (i + 1 == digits) break;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (round >= rounds || !used(round)) continue;
      code[round] = shared.codes[first + round * kWarp];
      position[round] = shared.positions[first + round * kWarp];
    }
    __syncthreads();
  }
}

// A block for every (sequence, key head).
template <class K>
__global__ void __launch_bounds__(kThreads) short_kernel(const __grid_constant__ Params p) {
  extern __shared__ uint4 memory[];
  auto& shared = *reinterpret_cast<ShortMemory<K>*>(memory);
  const int64_t key_head = blockIdx.x % p.key_heads;
  const Sequences::Range range = p.sequences.range(blockIdx.x / p.key_heads);
  if (range.length == 0 || range.length > kCudaShortTokens) return;
  const int count = static_cast<int>(range.length);
  sort_short(p, range, key_head, shared);
  for (int i = threadIdx.x; i < count; i += kThreads) {
    *p.key_order.at<int32_t>(range.row, key_head, range.begin + i) = shared.positions[i];
  }
  const int64_t group = p.query_heads / p.key_heads;
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    const CodeRow<K> queries(p, p.code_q, range, head);
    for (int t = threadIdx.x; t < count; t += kThreads) {
      const K code = queries[t];
      const int64_t end = first_where(0, count, [&](int64_t i) {
        return shared.codes[i] > code || (shared.codes[i] == code && shared.positions[i] > t);
      });
      const int64_t begin = first_where(max(int64_t{0}, end - p.budget), end,
                                        [&](int64_t i) { return shared.codes[i] >= code; });
      *p.begin.at<int32_t>(range.row, head, range.begin + t) = static_cast<int32_t>(begin);
      *p.end.at<int32_t>(range.row, head, range.begin + t) = static_cast<int32_t>(end);
    }
  }
}

}  // namespace hax::lsh_bucket
