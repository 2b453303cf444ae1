// Means and norms of the features, over whole sequences or over the tokens before each tile.
#pragma once

#include "device/element.cuh"
#include "hash/feature_lanes.cuh"
#include "hash/lsh_hash/lsh_hash.hpp"

namespace hax::lsh_hash {

inline constexpr int kSumThreads = 256;
inline constexpr int kScanThreads = 1024;

// Sum of a feature's differences from the sequence's first token, and of their squares.
struct Sums {
  double first = 0.0, second = 0.0;

  __device__ void add(double difference) {
    first += difference;
    second += difference * difference;
  }
  __device__ void operator+=(const Sums& other) {
    first += other.first;
    second += other.second;
  }

  // 1 / max(norm about the mean, 1e-12), of 1 / inverse_count tokens.
  __device__ double scale(double inverse_count) const {
    const double squares = second - first * first * inverse_count;
    return squares < 1e-24 ? 1e12 : rsqrt(squares);
  }
};

__device__ inline Sums load_sums(const double* at, int64_t features) {
  return {at[0], at[features]};
}
__device__ inline void store_sums(double* at, int64_t features, const Sums& sums) {
  at[0] = sums.first;
  at[features] = sums.second;
}

// Tokens of a head of a sequence, one feature.
template <class T>
struct FeatureColumn {
  const T* at;
  int64_t stride;

  __device__ FeatureColumn(const Params& p, const Sequences::Range& range, int64_t head,
                           int64_t feature)
      : at(p.x.at<T>(range.row, range.begin, head, feature)), stride(p.x.stride[1]) {}
  __device__ double operator[](int64_t t) const { return device::to_float(at[t * stride]); }
};

// A block for every (slot of a tile, head).
template <class T>
__global__ void __launch_bounds__(kSumThreads)
    sums_kernel(const __grid_constant__ Params p, const __grid_constant__ CudaPlan plan) {
  __shared__ Sums shared[kSumThreads];
  const int64_t head = blockIdx.x % p.heads;
  const SequenceTiles::Tile tile = p.cuda_tiles().at(blockIdx.x / p.heads);
  if (tile.begin >= tile.end || p.handled_short(tile.range.length)) return;
  const FeatureLanes lanes(p.features, kSumThreads);
  const bool used = lanes.feature < p.features;
  Sums sums;
  if (used) {
    const FeatureColumn<T> x(p, tile.range, head, lanes.feature);
    const double origin = x[0];
#pragma unroll 8
    for (int64_t t = tile.begin + lanes.group; t < tile.end; t += lanes.groups) {
      sums.add(x[t] - origin);
    }
  }
  const Sums total = scan_groups(sums, lanes, shared);
  if (!used || lanes.group > 0) return;
  store_sums(plan.sums + int64_t{blockIdx.x} * 2 * p.features + lanes.feature, p.features, total);
}

// A block for every (sequence, head): the tiles' sums become the norms of the sequence or, causal,
// the sums over all tiles before each.
template <class T>
__global__ void __launch_bounds__(kScanThreads)
    scan_kernel(const __grid_constant__ Params p, const __grid_constant__ CudaPlan plan) {
  __shared__ Sums shared[kScanThreads];
  const int64_t s = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
  const Sequences::Range range = p.sequences.range(s);
  if (range.length == 0 || p.handled_short(range.length)) return;
  const int64_t count = ceil_div(range.length, kCudaTileTokens);
  const FeatureLanes lanes(p.features, blockDim.x);
  const FeatureLanes::Stretch mine = lanes.stretch(0, count);
  const bool used = lanes.feature < p.features;
  const int64_t next = p.heads * 2 * p.features;
  double* tiles =
      plan.sums + (p.cuda_tiles().first_slot(s) * p.heads + head) * 2 * p.features + lanes.feature;
  Sums sums;
  if (used) {
#pragma unroll 4
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      sums += load_sums(tiles + i * next, p.features);
    }
  }
  const Sums total = scan_groups(sums, lanes, shared);
  if (!used) return;
  if (p.statistics == HAX_LSH_STATISTICS_CAUSAL) {
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const Sums own = load_sums(tiles + i * next, p.features);
      store_sums(tiles + i * next, p.features, sums);
      sums += own;
    }
  } else if (lanes.group == 0) {
    const double inverse = 1.0 / static_cast<double>(range.length);
    const double mean = FeatureColumn<T>(p, range, head, lanes.feature)[0] + total.first * inverse;
    float* norms = plan.norms + int64_t{blockIdx.x} * 3 * p.features + lanes.feature;
    const float rounded = static_cast<float>(mean);
    norms[0] = rounded;
    norms[p.features] = static_cast<float>(mean - rounded);
    norms[2 * p.features] = static_cast<float>(total.scale(inverse));
  }
}

}  // namespace hax::lsh_hash
