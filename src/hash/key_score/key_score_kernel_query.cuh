// Running sums of queries: over all tokens before each tile, and their norms over whole sequences.
#pragma once

#include "device/element.cuh"
#include "hash/feature_lanes.cuh"
#include "hash/key_score/key_score.hpp"

namespace hax::key_score {

inline constexpr int kQueryThreads = 256;
inline constexpr int kScanThreads = 512;

// Queries of a head of a sequence, one feature.
template <class T>
struct QueryColumn {
  const T* at;
  int64_t stride;

  __device__ QueryColumn(const Inputs& p, const Sequences::Range& range, int64_t head,
                         int64_t feature)
      : at(p.q.at<T>(range.row, range.begin, head, feature)), stride(p.q.stride[1]) {}
  __device__ double operator[](int64_t t) const { return device::to_float(at[t * stride]); }
};

// Sum of the running sums of some tokens, and of their squares.
struct Moments {
  double first = 0.0, second = 0.0;
  __device__ void operator+=(const Moments& other) {
    first += other.first;
    second += other.second;
  }
};

// Of one (slot of a tile, head): sum of q, and for the sequence's norm the moments of the tile's own running sum.
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

// A block for every (sequence, head): the tiles' sums become those of all tokens before each tile; the squares of
// all running sums are added up as sum_t (before + c_t)^2 = T before^2 + 2 before sum_t c_t + sum_t c_t^2.
__global__ void __launch_bounds__(kScanThreads)
    scan_kernel(const __grid_constant__ Inputs p, const __grid_constant__ CudaQueryPlan plan) {
  __shared__ double shared[kScanThreads];
  const int64_t s = blockIdx.x / p.heads, head = blockIdx.x % p.heads;
  const int64_t length = p.sequences.range(s).length;
  if (length == 0) return;
  const FeatureLanes lanes(p.features, blockDim.x);
  const bool used = lanes.feature < p.features;
  const FeatureLanes::Stretch mine =
      lanes.stretch(0, used ? ceil_div(length, kCudaTileTokens) : int64_t{0});
  const int64_t next = p.heads * plan.values * p.features;
  double* tiles = plan.sums +
                  (p.cuda_tiles().first_slot(s) * p.heads + head) * plan.values * p.features +
                  lanes.feature;
  double before = 0.0;
#pragma unroll 4
  for (int64_t i = mine.begin; i < mine.end; ++i) before += tiles[i * next];
  scan_groups(before, lanes, shared);
  double squares = 0.0;
#pragma unroll 4
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    double* sums = tiles + i * next;
    const double own = sums[0];
    sums[0] = before;
    if (p.sequence_norm) {
      const int64_t left = length - i * kCudaTileTokens;
      const double tokens = static_cast<double>(left < kCudaTileTokens ? left : kCudaTileTokens);
      squares += tokens * before * before + 2.0 * before * sums[p.features] + sums[2 * p.features];
    }
    before += own;
  }
  if (!p.sequence_norm) return;
  const double total = scan_groups(squares, lanes, shared);
  if (!used || lanes.group > 0) return;
  const double norm = sqrt(total);
  plan.scale[int64_t{blockIdx.x} * p.features + lanes.feature] =
      1.0 / (norm < 1e-12 ? 1e-12 : norm);
}

// Inputs of the MLP, rows of tokens of one tile and head, in fp32. Tokens are taken in order, from the tile's
// first on.
template <class T>
struct InputReader {
  const Inputs& p;
  SequenceTiles::Tile tile;
  int64_t head;
  FeatureLanes lanes;
  double before;  // sum of this thread's feature of q over the tokens before

  __device__ InputReader(const Inputs& inputs, const CudaQueryPlan& plan, int64_t index)
      : p(inputs),
        tile(p.cuda_tiles().at(index / p.heads)),
        head(index % p.heads),
        lanes(p.features, kQueryThreads),
        before(0.0) {
    if (tile.begin < tile.end && lanes.feature < p.features) {
      before = plan.sums[index * plan.values * p.features + lanes.feature];
    }
  }

  // By all threads: q' of tokens [begin, end) into rows of shared memory, `row` floats apart. shared: one double
  // a thread.
  __device__ void read_queries(const CudaQueryPlan& plan, int64_t begin, int64_t end, float* rows,
                               int row, double* shared) {
    const bool used = lanes.feature < p.features;
    const FeatureLanes::Stretch mine = lanes.stretch(begin, used ? end : begin);
    const QueryColumn<T> q(p, tile.range, head, used ? lanes.feature : 0);
    double sum = 0.0;
    for (int64_t t = mine.begin; t < mine.end; ++t) sum += q[t];
    const double total = scan_groups(sum, lanes, shared);
    sum += before;
    before += total;
    const double scale =
        used && p.sequence_norm
            ? plan.scale[(tile.sequence * p.heads + head) * p.features + lanes.feature]
            : 1.0;
    for (int64_t t = mine.begin; t < mine.end; ++t) {
      sum += q[t];
      rows[(t - begin) * row + lanes.feature] = static_cast<float>(sum * scale);
    }
    __syncthreads();
    if (p.sequence_norm) return;
    // Each token's own norm, by 8 neighbouring threads.
    constexpr int kTeam = 8;
    const int member = threadIdx.x % kTeam;
    for (int first = 0; first < end - begin; first += kQueryThreads / kTeam) {
      const int token = first + static_cast<int>(threadIdx.x) / kTeam;
      const bool present = token < end - begin;
      double squares = 0.0;
      for (int n = member; present && n < p.features; n += kTeam) {
        const double value = rows[token * row + n];
        squares += value * value;
      }
      for (int distance = kTeam / 2; distance > 0; distance /= 2) {
        squares += __shfl_xor_sync(0xffffffffu, squares, distance);
      }
      const double norm = sqrt(squares);
      const double factor = 1.0 / (norm < 1e-12 ? 1e-12 : norm);
      for (int n = member; present && n < p.features; n += kTeam) {
        rows[token * row + n] = static_cast<float>(rows[token * row + n] * factor);
      }
    }
    __syncthreads();
  }

  __device__ float key(int64_t t, int64_t n) const {
    const int64_t token = tile.range.begin + t;
    return p.k_scale *
           device::to_float(*static_cast<const T*>(p.k.at<T>(tile.range.row, token, head, n)));
  }
};

__device__ inline float relu(float x) { return x < 0.0f ? 0.0f : x; }  // passes NaN on

}  // namespace hax::key_score
