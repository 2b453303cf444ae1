// Kernels that add up over tokens, feature by feature: the threads of a block stand in groups of
// neighbours that hold one feature each, and every group takes a stretch of the tokens.
#pragma once

#include "core/integer.hpp"

namespace hax {

struct FeatureLanes {
  int feature, group, groups;

  // Features rounded up to a power of two, 8 at least; divides every power of two of threads from
  // 256 on.
  __host__ __device__ static int width(int64_t features) {
    int lanes = 8;
    while (lanes < features) lanes *= 2;
    return lanes;
  }

  __device__ FeatureLanes(int64_t features, int threads) {
    const int lanes = width(features);
    feature = static_cast<int>(threadIdx.x) % lanes;
    group = static_cast<int>(threadIdx.x) / lanes;
    groups = threads / lanes;
  }

  struct Stretch {
    int64_t begin, end;
  };
  // This group's part of [begin, end).
  __device__ Stretch stretch(int64_t begin, int64_t end) const {
    const int64_t each = ceil_div(end - begin, groups);
    const int64_t first = min(begin + group * each, end);
    return {first, min(first + each, end)};
  }
};

// A group's sum becomes that of the groups before it; answers the sum of all. By all threads of the
// block; shared: one S a thread.
template <class S>
__device__ S scan_groups(S& own, const FeatureLanes& lanes, S* shared) {
  const int width = static_cast<int>(blockDim.x) / lanes.groups;
  shared[threadIdx.x] = own;
  __syncthreads();
  S total{}, before{};
  for (int group = 0; group < lanes.groups; ++group) {
    if (group == lanes.group) before = total;
    total += shared[group * width + lanes.feature];
  }
  own = before;
  __syncthreads();
  return total;
}

}  // namespace hax
