// The gate of ssd's backward, element by element: y = y' SiLU(z).
#pragma once

#include "scan/ssd/ssd_kernel_backward.cuh"

namespace hax::ssd {

inline constexpr int kGateThreads = 256;

struct TokenElement {
  int64_t row, token, head, p;
  __device__ TokenElement(const Inputs& in, int64_t index) {
    p = index % in.width;
    index /= in.width;
    head = index % in.heads;
    index /= in.heads;
    token = index % in.length;
    row = index / in.length;
  }
  __device__ float of(const Tensor& tensor) const {
    return device::load_any(tensor, tensor.offset(row, token, head, p));
  }
};

// plan.g = dy SiLU(z). A thread for every element.
__device__ inline float gated_gradient(const BackwardParams& p, const TokenElement& at) {
  return at.of(p.dy) * device::silu(at.of(p.z));
}
template <class T>
__global__ void __launch_bounds__(kGateThreads)
    backward_gate_kernel(const __grid_constant__ BackwardParams p,
                         const __grid_constant__ CudaBackwardPlan plan) {
  const int64_t index = int64_t{blockIdx.x} * kGateThreads + threadIdx.x;
  if (index >= p.batch * p.length * p.heads * p.width) return;
  plan.g.at<T>()[index] = device::from_float<T>(gated_gradient(p, TokenElement(p, index)));
}

// dz = dy y' SiLU'(z), where y' lies in plan.y.
template <class T>
__global__ void __launch_bounds__(kGateThreads)
    backward_gate_gradient_kernel(const __grid_constant__ BackwardParams p,
                                  const __grid_constant__ CudaBackwardPlan plan) {
  const int64_t index = int64_t{blockIdx.x} * kGateThreads + threadIdx.x;
  if (index >= p.batch * p.length * p.heads * p.width) return;
  const TokenElement at(p, index);
  const float dz =
      at.of(p.dy) * device::to_float(plan.y.at<T>()[index]) * device::silu_slope(at.of(p.z));
  *p.dz.at<T>(at.row, at.token, at.head, at.p) = device::from_float<T>(dz);
}

}  // namespace hax::ssd
