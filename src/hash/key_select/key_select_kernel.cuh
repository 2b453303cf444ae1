// What key_select's CUDA kernels share: how keys rank.
#pragma once

#include "device/warp.cuh"
#include "hash/key_select/key_select.hpp"

namespace hax::key_select {

using device::kWarp;

// A score's order as an unsigned number: NaN lowest, -0 equal to 0; 0 stands for no key at all.
__device__ inline uint32_t order_of(float score) {
  const uint32_t bits = __float_as_uint(score + 0.0f);
  const uint32_t order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return score == score ? order : 1;
}

// The score of an order, NaN of NaN's.
__device__ inline float score_of(uint32_t order) {
  return __uint_as_float(order & 0x80000000u ? order ^ 0x80000000u : ~order);
}

// Greater for a better key; of equal scores the earlier position is better.
__device__ inline uint64_t rank_of(uint32_t order, uint32_t position) {
  return uint64_t{order} << 32 | ~position;
}
__device__ inline uint32_t order_of(uint64_t rank) { return static_cast<uint32_t>(rank >> 32); }
__device__ inline uint32_t position_of(uint64_t rank) { return ~static_cast<uint32_t>(rank); }

// Scores and eviction times of one head of a sequence.
struct Row {
  const float* score;
  int32_t* eviction;
  int64_t score_stride, eviction_stride;
  int64_t length;
  bool score_vectors, eviction_vectors;  // four neighbours move together

  __device__ Row(const Params& p, const Sequences::Range& range, int64_t head)
      : score(p.score.at<float>(range.row, head, range.begin)),
        eviction(p.eviction.at<int32_t>(range.row, head, range.begin)),
        score_stride(p.score.stride[2]),
        eviction_stride(p.eviction.stride[2]),
        length(range.length),
        score_vectors(score_stride == 1 && reinterpret_cast<uintptr_t>(score) % 16 == 0),
        eviction_vectors(eviction_stride == 1 && reinterpret_cast<uintptr_t>(eviction) % 16 == 0) {}

  // Scores of key j, a multiple of 4, and the three after it; 0 for those from `end` on.
  __device__ void load(float (&to)[4], int64_t j, int64_t end) const {
    if (score_vectors && j + 4 <= end) {
      const float4 four = *reinterpret_cast<const float4*>(score + j);
      to[0] = four.x;
      to[1] = four.y;
      to[2] = four.z;
      to[3] = four.w;
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = j + i < end ? score[(j + i) * score_stride] : 0.0f;
  }
  __device__ void evict(int64_t j, int64_t when) const {
    eviction[j * eviction_stride] = static_cast<int32_t>(when);
  }
  // The same for four neighbours that leave as they come.
  __device__ void evict_four(int64_t j) const {
    const auto when = static_cast<int32_t>(j);
    if (eviction_vectors) {
      *reinterpret_cast<int4*>(eviction + j) = {when, when + 1, when + 2, when + 3};
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) eviction[(j + i) * eviction_stride] = when + i;
    }
  }
};

}  // namespace hax::key_select
