// Targets of the picks: the attention that they receive.
#pragma once

#include "device/element.cuh"
#include "device/warp.cuh"
#include "hash/ranking_loss/ranking_loss.hpp"

namespace hax::ranking_loss {

using device::kWarp;

inline constexpr int kShareThreads = 256;
inline constexpr int kPanel = kWarp;                   // picks of a block, one a lane
inline constexpr int kLanes = kShareThreads / kPanel;  // queries side by side
inline constexpr int kQueries = 4;                     // of a lane at a time
inline constexpr int kQueryRows = kLanes * kQueries;   // in shared memory

// Position of entry m of a row in its sequence; -1 for an unused one, or one beyond the sequence,
// which nothing may be read at.
__device__ inline int64_t position_of(const Inputs& p, int64_t s, int64_t length, int64_t head,
                                      int64_t m) {
  const int64_t position = *p.pick.at<int32_t>(s, head, m);
  return position < length ? max(position, int64_t{-1}) : -1;
}

__host__ __device__ inline int share_row(int64_t features) {
  return static_cast<int>(features) | 1;
}
inline size_t share_bytes(int64_t features) {
  return sizeof(float) * (kPanel + kQueryRows) * share_row(features);
}

// 1 / (1 + e^-x), to a few ulp.
__device__ inline float accurate_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// A block for every (slot of a tile, head, panel of picks): the tile's part of the picks' targets.
template <class T>
__global__ void __launch_bounds__(kShareThreads)
    share_kernel(const __grid_constant__ ForwardParams p,
                 const __grid_constant__ CudaForwardPlan plan) {
  extern __shared__ float keys[];
  __shared__ double sums[kLanes][kPanel];
  const int64_t panels = ceil_div(p.picks, kPanel);
  const int64_t index = blockIdx.x / panels, head = index % p.heads;
  const int64_t first = blockIdx.x % panels * kPanel;
  const SequenceTiles::Tile tile = p.cuda_tiles().at(index / p.heads);
  if (tile.begin >= tile.end) return;
  const Sequences::Range& range = tile.range;
  const int lane = threadIdx.x % kPanel, group = threadIdx.x / kPanel;
  const int features = static_cast<int>(p.features), row = share_row(features);
  float* queries = keys + kPanel * row;
  const auto pick = [&](int i) {
    return first + i < p.picks ? position_of(p, tile.sequence, range.length, head, first + i) : -1;
  };
  for (int i = group; i < kPanel; i += kLanes) {
    const int64_t position = pick(i);
    for (int n = lane; n < features; n += kPanel) {
      keys[i * row + n] = position < 0
                              ? 0.0f
                              : p.k_scale * device::to_float(*p.k.at<T>(
                                                range.row, range.begin + position, head, n));
    }
  }
  const int64_t position = pick(lane);
  double total = 0.0;
  for (int64_t begin = tile.begin; begin < tile.end; begin += kQueryRows) {
    __syncthreads();
    for (int i = group; i < kQueryRows; i += kLanes) {
      for (int n = lane; n < features; n += kPanel) {
        queries[i * row + n] =
            begin + i < tile.end
                ? device::to_float(*p.q.at<T>(range.row, range.begin + begin + i, head, n))
                : 0.0f;
      }
    }
    __syncthreads();
    float product[kQueries] = {};
    const float* key = keys + lane * row;
    const float* query = queries + group * kQueries * row;
    for (int n = 0; n < features; ++n) {
#pragma unroll
      for (int i = 0; i < kQueries; ++i) product[i] = fmaf(query[i * row + n], key[n], product[i]);
    }
#pragma unroll
    for (int i = 0; i < kQueries; ++i) {
      const int64_t t = begin + group * kQueries + i;
      if (position >= 0 && t >= position && t < tile.end) total += accurate_sigmoid(product[i]);
    }
  }
  sums[group][lane] = total;
  __syncthreads();
  if (group > 0 || first + lane >= p.picks) return;
  for (int g = 1; g < kLanes; ++g) total += sums[g][lane];
  plan.shares[index * p.picks + first + lane] = total;
}

inline constexpr int kTargetThreads = 128;

// A thread for every entry of every row: adds its tiles' shares in order.
__global__ void __launch_bounds__(kTargetThreads)
    target_kernel(const __grid_constant__ ForwardParams p,
                  const __grid_constant__ CudaForwardPlan plan) {
  const int64_t index = int64_t{blockIdx.x} * kTargetThreads + threadIdx.x;
  if (index >= p.rows() * p.picks) return;
  const int64_t m = index % p.picks, row = index / p.picks;
  const int64_t s = row / p.heads, head = row % p.heads;
  const int64_t length = p.sequences.range(s).length;
  const int64_t position = position_of(p, s, length, head, m);
  double sum = 0.0;
  if (position >= 0) {
    const int64_t first = p.cuda_tiles().first_slot(s);
#pragma unroll 4
    for (int64_t tile = position / kCudaTileTokens; tile < ceil_div(length, kCudaTileTokens);
         ++tile) {
      sum += plan.shares[((first + tile) * p.heads + head) * p.picks + m];
    }
  }
  plan.target[index] = static_cast<float>(sum);
  if (p.target) *p.target.at<float>(s, head, m) = static_cast<float>(sum);
}

}  // namespace hax::ranking_loss
