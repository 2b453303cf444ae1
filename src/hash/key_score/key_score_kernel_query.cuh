// Running sums of queries: over all tokens before each tile, and their norms over whole sequences.
#pragma once

#include "device/element.cuh"
#include "hash/feature_lanes.cuh"
#include "hash/key_score/key_score.hpp"

namespace hax::key_score {

inline constexpr int kQueryThreads = 256;
inline constexpr int kScanThreads = 512;
inline constexpr int kDirectTiles = 16;  // so few are added up where they are needed
inline constexpr int kMaxStretch = 16;   // tokens of a group of lanes whose q' are read together

// Queries of a head of a sequence, one feature.
template <class T>
struct QueryColumn {
  const T* at;
  int64_t stride;

  __device__ QueryColumn(const Inputs& p, const Sequences::Range& range, int64_t head,
                         int64_t feature)
      : at(p.q.at<T>(range.row, range.begin, head, feature)), stride(p.q.stride[1]) {}
  __device__ float value(int64_t t) const { return device::to_float(at[t * stride]); }
  __device__ double operator[](int64_t t) const { return value(t); }
};

// Sum of the running sums of some tokens, and of their squares.
struct Moments {
  double first = 0.0, second = 0.0;
  __device__ void operator+=(const Moments& other) {
    first += other.first;
    second += other.second;
  }
};

// Of one (slot of a tile, head): sum of q, and for the sequence's norm the moments of the tile's
// own running sum.
template <class T>
__device__ void tile_sums(const Inputs& p, const CudaQueryPlan& plan, int64_t index) {
  __shared__ Moments shared[kQueryThreads];
  auto* shared_sums = reinterpret_cast<double*>(shared);
  const SequenceTiles::Tile tile = p.cuda_tiles().at(index / p.heads);
  if (tile.begin >= tile.end) return;
  const FeatureLanes lanes(p.features, kQueryThreads);
  const bool used = lanes.feature < p.features;
  const FeatureLanes::Stretch mine = lanes.stretch(tile.begin, used ? tile.end : tile.begin);
  const QueryColumn<T> q(p, tile.range, index % p.heads, used ? lanes.feature : 0);
  double sum = 0.0;
#pragma unroll 8
  for (int64_t t = mine.begin; t < mine.end; ++t) sum += q[t];
  const double total = scan_groups(sum, lanes, shared_sums);
  double* out = plan.sums + index * plan.values * p.features + lanes.feature;
  if (used && lanes.group == 0) out[0] = total;
  if (!p.sequence_norm) return;
  Moments moments;
#pragma unroll 8
  for (int64_t t = mine.begin; t < mine.end; ++t) {
    sum += q[t];
    moments += Moments{sum, sum * sum};
  }
  const Moments all = scan_groups(moments, lanes, shared);
  if (!used || lanes.group > 0) return;
  out[p.features] = all.first;
  out[2 * p.features] = all.second;
}

// Adds the tiles' sums of one feature in order. The squares of all running sums are added up as
// sum_t (before + c_t)^2 = T before^2 + 2 before sum_t c_t + sum_t c_t^2.
struct RunningSum {
  double before = 0.0, squares = 0.0;

  __device__ void add(const Inputs& p, const double* sums, int64_t tile, int64_t length) {
    const double own = sums[0];
    if (p.sequence_norm) {
      const int64_t left = length - tile * kCudaTileTokens;
      const double tokens = static_cast<double>(left < kCudaTileTokens ? left : kCudaTileTokens);
      squares += tokens * before * before + 2.0 * before * sums[p.features] + sums[2 * p.features];
    }
    before += own;
  }
  __device__ static double scale(double squares) { return squares < 1e-24 ? 1e12 : rsqrt(squares); }
};

// Where a sequence's first tile has its sums of a feature, and the distance of tiles.
struct TileSums {
  double* first;
  int64_t next;

  __device__ TileSums(const Inputs& p, const CudaQueryPlan& plan, int64_t s, int64_t head,
                      int64_t feature)
      : first(plan.sums +
              (p.cuda_tiles().first_slot(s) * p.heads + head) * plan.values * p.features + feature),
        next(p.heads * plan.values * p.features) {}
};

// A block for every (sequence, head) of more than kDirectTiles tiles: their sums become those of
// all tokens before each tile.
__global__ void __launch_bounds__(kScanThreads)
    scan_kernel(const __grid_constant__ Inputs p, const __grid_constant__ CudaQueryPlan plan) {
  __shared__ double shared[kScanThreads];
  const int64_t s = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
  const int64_t length = p.sequences.range(s).length;
  const int64_t count = ceil_div(length, kCudaTileTokens);
  if (count <= kDirectTiles) return;
  const FeatureLanes lanes(p.features, blockDim.x);
  const bool used = lanes.feature < p.features;
  const FeatureLanes::Stretch mine = lanes.stretch(0, used ? count : int64_t{0});
  const TileSums tiles(p, plan, s, head, lanes.feature);
  RunningSum sum;
#pragma unroll 4
  for (int64_t i = mine.begin; i < mine.end; ++i) sum.before += tiles.first[i * tiles.next];
  scan_groups(sum.before, lanes, shared);
#pragma unroll 4
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    double* sums = tiles.first + i * tiles.next;
    const double before = sum.before;
    sum.add(p, sums, i, length);
    sums[0] = before;
  }
  if (!p.sequence_norm) return;
  const double squares = scan_groups(sum.squares, lanes, shared);
  if (!used || lanes.group > 0) return;
  plan.scale[int64_t{blockIdx.x} * p.features + lanes.feature] = RunningSum::scale(squares);
}

// Inputs of the MLP, rows of tokens of one tile and head, in fp32. Tokens are taken in order, from
// the tile's first on.
template <class T>
struct InputReader {
  const Inputs& p;
  SequenceTiles::Tile tile;
  int64_t head;
  FeatureLanes lanes;
  double before;  // sum of this thread's feature of q over the tokens before
  double scale;   // of the sequence's norm

  __device__ InputReader(const Inputs& inputs, const CudaQueryPlan& plan, int64_t index)
      : p(inputs),
        tile(p.cuda_tiles().at(index / p.heads)),
        head(index % p.heads),
        lanes(p.features, kQueryThreads),
        before(0.0),
        scale(1.0) {
    if (tile.begin >= tile.end || lanes.feature >= p.features) return;
    const TileSums tiles(p, plan, tile.sequence, head, lanes.feature);
    const int64_t own = tile.begin / kCudaTileTokens, length = tile.range.length;
    const int64_t count = ceil_div(length, kCudaTileTokens);
    if (count > kDirectTiles) {
      before = tiles.first[own * tiles.next];
      if (p.sequence_norm) {
        scale = plan.scale[(tile.sequence * p.heads + head) * p.features + lanes.feature];
      }
      return;
    }
    RunningSum sum;
#pragma unroll 4
    for (int64_t i = 0; i < (p.sequence_norm ? count : own); ++i) {
      if (i == own) before = sum.before;
      sum.add(p, tiles.first + i * tiles.next, i, length);
    }
    if (p.sequence_norm) {
      scale = RunningSum::scale(sum.squares);
    } else {
      before = sum.before;
    }
  }

  // By all threads: running sums of q at tokens [begin, end), at most kMaxStretch a group, into
  // rows of shared memory, `row` floats apart; scaled where the norm is the sequence's. shared: one
  // double a thread.
  __device__ void read_sums(int64_t begin, int64_t end, float* rows, int row, double* shared) {
    const bool used = lanes.feature < p.features;
    const FeatureLanes::Stretch mine = lanes.stretch(begin, used ? end : begin);
    const QueryColumn<T> q(p, tile.range, head, used ? lanes.feature : 0);
    const int count = static_cast<int>(mine.end - mine.begin);
    float value[kMaxStretch];
#pragma unroll
    for (int i = 0; i < kMaxStretch; ++i) {
      if (i < count) value[i] = q.value(mine.begin + i);
    }
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < kMaxStretch; ++i) {
      if (i < count) sum += value[i];
    }
    const double total = scan_groups(sum, lanes, shared);
    sum += before;
    before += total;
    float* to = rows + static_cast<int>(mine.begin - begin) * row + lanes.feature;
#pragma unroll
    for (int i = 0; i < kMaxStretch; ++i) {
      if (i >= count) break;
      sum += value[i];
      to[i * row] = static_cast<float>(sum * scale);
    }
    __syncthreads();
  }

  // The same for q'.
  __device__ void read_queries(int64_t begin, int64_t end, float* rows, int row, double* shared) {
    read_sums(begin, end, rows, row, shared);
    if (p.sequence_norm) return;
    // Each token's own norm, by 8 neighbouring threads.
    constexpr int kTeam = 8;
    const int member = threadIdx.x % kTeam, features = static_cast<int>(p.features);
    const int tokens = static_cast<int>(end - begin);
    for (int first = 0; first < tokens; first += kQueryThreads / kTeam) {
      const int token = first + static_cast<int>(threadIdx.x) / kTeam;
      const int last = token < tokens ? features : 0;
      float* own = rows + token * row;
      double squares = 0.0;
      for (int n = member; n < last; n += kTeam) {
        const double x = own[n];
        squares += x * x;
      }
#pragma unroll
      for (int distance = kTeam / 2; distance > 0; distance /= 2) {
        squares += __shfl_xor_sync(0xffffffffu, squares, distance);
      }
      const double factor = squares < 1e-24 ? 1e12 : rsqrt(squares);
      for (int n = member; n < last; n += kTeam) own[n] = static_cast<float>(own[n] * factor);
    }
    __syncthreads();
  }

  // Keys of a token, and the distance of its features.
  __device__ const T* key_row(int64_t t) const {
    return static_cast<const T*>(p.k.at<T>(tile.range.row, tile.range.begin + t, head));
  }
  __device__ float key(const T* row, int n) const {
    return p.k_scale * device::to_float(row[n * p.k.stride[3]]);
  }
};

__device__ inline float relu(float x) { return x < 0.0f ? 0.0f : x; }  // passes NaN on

}  // namespace hax::key_score
