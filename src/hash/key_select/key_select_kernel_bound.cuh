// A bound that exactly so many keys reach.
#pragma once

#include "hash/key_select/key_select_kernel.cuh"

namespace hax::key_select {

// A bound that exactly `count` of the values, all different and at least as many, that a warp holds
// reach.
template <int Count>
__device__ uint64_t select_by_warp(const uint64_t (&values)[Count], int count) {
  // Bits that all have in common need no trial.
  uint32_t ones = order_of(values[0]), zeros = ~ones;
#pragma unroll
  for (int i = 1; i < Count; ++i) {
    ones |= order_of(values[i]);
    zeros |= ~order_of(values[i]);
  }
  const uint32_t differing =
      __reduce_or_sync(0xffffffffu, ones) & __reduce_or_sync(0xffffffffu, zeros);
  const int first = differing == 0 ? 31 : 63 - __clz(static_cast<int>(differing));
  uint64_t least = first == 63 ? 0 : values[0] >> (first + 1) << (first + 1);
  least = __shfl_sync(0xffffffffu, least, 0);
  for (int bit = first; bit >= 0; --bit) {
    const uint64_t trial = least | uint64_t{1} << bit;
    int above = 0;
#pragma unroll
    for (int i = 0; i < Count; ++i) above += values[i] >= trial;
    above = __reduce_add_sync(0xffffffffu, above);
    if (above >= count) least = trial;
    if (above == count) break;
  }
  return least;
}

}  // namespace hax::key_select
