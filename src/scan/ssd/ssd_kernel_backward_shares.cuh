// dB and dC of ssd's backward: the sums of what the shares add, in an order that never changes.
#pragma once

#include "scan/ssd/ssd_kernel_backward.cuh"

namespace hax::ssd {

inline constexpr int kShareRows = 8;  // of a block, a warp each

// A warp for every (row, token, group).
template <class T>
__global__ void __launch_bounds__(kShareRows* device::kWarp)
    backward_sum_shares_kernel(const __grid_constant__ BackwardParams p,
                               const __grid_constant__ CudaBackwardPlan plan) {
  const int64_t outer = int64_t{blockIdx.x} * kShareRows + threadIdx.x / device::kWarp;
  const int64_t count = p.batch * p.length * p.groups;
  if (outer >= count) return;
  const int states = static_cast<int>(p.states);
  const int64_t group = outer % p.groups, t = outer / p.groups % p.length;
  const int64_t row = outer / p.groups / p.length;
  const auto sum = [&](const Tensor& to, int which) {
    if (!to) return;
    T* const at = to.at<T>(row, t, group);
#pragma unroll 4
    for (int n = threadIdx.x % device::kWarp; n < states; n += device::kWarp) {
      const float* from = plan.gradients + (outer * 2 + which) * states + n;
      float total = 0.0f;
      for (int64_t share = 0; share < plan.shares; ++share, from += count * 2 * states) {
        total += *from;
      }
      at[n * to.stride[3]] = device::from_float<T>(total);
    }
  };
  sum(p.dB, 0);
  sum(p.dC, 1);
}

}  // namespace hax::ssd
