// dB and dC of ssd's backward: the sums of what the shares add, in an order that never changes.
#pragma once

#include "scan/ssd/ssd_kernel_backward.cuh"

namespace hax::ssd {

inline constexpr int kShareThreads = 256;

// A thread for every (row, token, group, n).
template <class T>
__global__ void __launch_bounds__(kShareThreads)
    backward_sum_shares_kernel(const __grid_constant__ BackwardParams p,
                               const __grid_constant__ CudaBackwardPlan plan) {
  const int64_t index = int64_t{blockIdx.x} * kShareThreads + threadIdx.x;
  const int64_t count = p.batch * p.length * p.groups * p.states;
  if (index >= count) return;
  const int64_t n = index % p.states, outer = index / p.states;
  const float* from = plan.gradients + outer * 2 * p.states + n;
  float dB = 0.0f, dC = 0.0f;
#pragma unroll 4
  for (int64_t share = 0; share < plan.shares; ++share, from += 2 * count) {
    dB += from[0];
    dC += from[p.states];
  }
  const int64_t group = outer % p.groups, t = outer / p.groups % p.length;
  const int64_t row = outer / p.groups / p.length;
  if (p.dB) *p.dB.at<T>(row, t, group, n) = device::from_float<T>(dB);
  if (p.dC) *p.dC.at<T>(row, t, group, n) = device::from_float<T>(dC);
}

}  // namespace hax::ssd
