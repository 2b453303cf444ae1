// How far back ssd's forward has to look where columns are cut into segments: a token whose decay is 0 in fp32 adds nothing.
#pragma once

#include "scan/ssd/ssd_kernel_chunk.cuh"
#include "scan/ssd/ssd_kernel_forward_shares.cuh"

namespace hax::ssd {

// Beyond 2^-149, with room for what sums of exponents are rounded by.
inline constexpr float kForgotten = -160.0f;
inline constexpr int kMostUnits = 2, kMostForwardWarps = 12;  // of a block

// The piece without its first chunks that have no part in the state at its end. All threads of the block, of whose warps
// each sums up the exponents of some chunks at a time.
__device__ inline Piece remembered(const ForwardParams& p, const UnitBlock& block, int64_t rows,
                                   const Sequences::Range& range, Piece piece) {
  constexpr int kEach = 2;  // chunks of a warp
  __shared__ float sums[kMostForwardWarps * kEach][kMostUnits];
  const int lane = threadIdx.x % device::kWarp, warp = threadIdx.x / device::kWarp;
  const int at_once = static_cast<int>(blockDim.x) / device::kWarp * kEach;
  const int64_t slices = (p.width + rows - 1) / rows;
  float left[kMostUnits] = {};
  for (int64_t end = piece.end; end > piece.begin; end -= at_once) {
    RawSteps raw[kEach][kMostUnits];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
#pragma unroll
      for (int unit = 0; unit < kMostUnits; ++unit) {
        const int64_t chunk = end - 1 - warp * kEach - i;
        raw[i][unit].load(p, range.row, range.begin + chunk * kChunk,
                          chunk >= piece.begin && unit < block.count ? kChunk : 0,
                          (block.first + unit) / slices);
      }
    }
#pragma unroll
    for (int unit = 0; unit < kMostUnits; ++unit) {
      if (unit >= block.count) break;
      const int64_t head = (block.first + unit) / slices;
      const float rate = *p.A.at<float>(head) * device::kLog2E;
      const float bias = p.dt_bias ? *p.dt_bias.at<float>(head) : 0.0f;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          sum += step_exponent(step_size(p, raw[i][unit].value(p, k) + bias), rate);
        }
        sum = device::warp_sum(sum);
        if (lane == 0) sums[warp * kEach + i][unit] = sum;
      }
    }
    __syncthreads();
    for (int i = 0; i < at_once && end - i > piece.begin; ++i) {
      bool forgotten = true;
      for (int unit = 0; unit < block.count; ++unit) {
        left[unit] += sums[i][unit];
        forgotten = forgotten && left[unit] < kForgotten;
      }
      if (forgotten) return {piece.column, end - i - 1, piece.end};
    }
    __syncthreads();
  }
  return piece;
}

// Calls add(index) for the segments before a block's own, from the first whose state still matters.
template <class Add>
__device__ void for_each_segment_before(const CudaForwardPlan& plan, const Share& share, int units,
                                        Add&& add) {
  int64_t first = share.index;
  float decay = 1.0f;  // at least that of every unit
  while (first >= share.step && decay > 0.0f) {
    first -= share.step;
    float most = 0.0f;
    for (int unit = 0; unit < units; ++unit) {
      most = max(most, __ldcg(&plan.decays[first * plan.units + unit]));
    }
    decay *= most;
  }
  for (; first < share.index; first += share.step) add(first);
}

}  // namespace hax::ssd
