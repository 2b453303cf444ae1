// The last sums of the selective scan's backward, in an order that never changes.
#pragma once

#include "device/element.cuh"
#include "scan/selective_scan/selective_scan.hpp"

namespace hax::selective_scan {

inline constexpr int kReduceThreads = 256;

// dB and dC: the slices' shares. A thread for every (row, token, group, n).
template <class T>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_shares_kernel(const __grid_constant__ BackwardParams p,
                         const __grid_constant__ CudaBackwardPlan plan) {
  const int64_t index = int64_t{blockIdx.x} * kReduceThreads + threadIdx.x;
  const int64_t count = p.batch * p.length * p.groups * p.states;
  if (index >= count) return;
  const int64_t n = index % p.states, outer = index / p.states;
  const float* from = plan.shares + outer * 2 * p.states + n;
  float dB = 0.0f, dC = 0.0f;
#pragma unroll 8
  for (int64_t slice = 0; slice < plan.slices; ++slice, from += 2 * count) {
    dB += from[0];
    dC += from[p.states];
  }
  const int64_t group = outer % p.groups, t = outer / p.groups % p.length;
  const int64_t row = outer / p.groups / p.length;
  if (p.dB) *p.dB.at<T>(row, t, group, n) = device::from_float<T>(dB);
  if (p.dC) *p.dC.at<T>(row, t, group, n) = device::from_float<T>(dC);
}

// dA, dD and ddelta_bias: the segments' sums. kSumsTogether threads for every (n or one of the two, d).
inline constexpr int kSumsTogether = 8, kSumsOfBlock = kReduceThreads / kSumsTogether;

__global__ void __launch_bounds__(kReduceThreads)
    reduce_sums_kernel(const __grid_constant__ BackwardParams p,
                       const __grid_constant__ CudaBackwardPlan plan) {
  __shared__ float parts[kSumsTogether][kSumsOfBlock];
  const int own = threadIdx.x % kSumsOfBlock, part = threadIdx.x / kSumsOfBlock;
  const int64_t index = int64_t{blockIdx.x} * kSumsOfBlock + own;
  const int64_t count = (p.states + 2) * p.channels;
  float sum = 0.0f;
  if (index < count) {
#pragma unroll 8
    for (int64_t run = part; run < p.batch * plan.segments; run += kSumsTogether) {
      sum += plan.sums[run * count + index];
    }
  }
  parts[part][own] = sum;
  __syncthreads();
  if (part > 0 || index >= count) return;
  for (int i = 1; i < kSumsTogether; ++i) sum += parts[i][own];
  const int64_t n = index / p.channels, d = index % p.channels;
  if (n < p.states) {
    if (p.dA) *p.dA.at<float>(d, n) = sum;
  } else if (n == p.states) {
    if (p.dD) *p.dD.at<float>(d) = sum;
  } else if (p.ddelta_bias) {
    *p.ddelta_bias.at<float>(d) = sum;
  }
}

// dinitial_state of sequences without tokens: dfinal_state. A thread for every (sequence, d, n).
__global__ void __launch_bounds__(kReduceThreads)
    empty_sequences_kernel(const __grid_constant__ BackwardParams p) {
  const int64_t index = int64_t{blockIdx.x} * kReduceThreads + threadIdx.x;
  const int64_t n = index % p.states, d = index / p.states % p.channels;
  const int64_t s = index / p.states / p.channels;
  if (s >= p.sequences.count() || p.sequences.range(s).length > 0) return;
  const Tensor& given = p.dfinal_state;
  const float value = given ? device::load_any(given, given.offset(s, d, n)) : 0.0f;
  device::store_any(p.dinitial_state, p.dinitial_state.offset(s, d, n), value);
}

}  // namespace hax::selective_scan
