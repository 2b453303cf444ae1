// Kernels that add up over tokens, feature by feature: the threads of a block stand in groups of neighbours that
// hold one feature each, and every group takes a stretch of the tokens.
#pragma once

#include "core/integer.hpp"

namespace hax {

struct FeatureLanes {
  int feature, group, groups;

  // Features rounded up to a power of two, 8 at least; divides every power of two of threads from 256 on.
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

}  // namespace hax
