// dA, ddt_bias and dD of ssd's backward: sums over tiles, in an order that never changes.
#pragma once

#include "scan/ssd/ssd_kernel_backward.cuh"

namespace hax::ssd {

inline constexpr int kSumThreads = 256;

// Sum of a block's values; every thread receives it.
__device__ inline double block_sum(double value, double* memory) {
  __syncthreads();
  memory[threadIdx.x] = value;
#pragma unroll
  for (int distance = kSumThreads / 2; distance > 0; distance /= 2) {
    __syncthreads();
    if (threadIdx.x < distance) memory[threadIdx.x] += memory[threadIdx.x + distance];
  }
  __syncthreads();
  return memory[0];
}

// A block for every head.
__global__ void __launch_bounds__(kSumThreads)
    backward_sum_parameters_kernel(const __grid_constant__ BackwardParams p,
                                   const __grid_constant__ CudaBackwardPlan plan) {
  __shared__ double memory[kSumThreads];
  const int64_t head = blockIdx.x, units = plan.units(p.heads);
  const bool writes = threadIdx.x == 0;
  if (p.dA) {
    double sum = 0.0;
    for (int64_t tile = threadIdx.x; tile < plan.tiles(); tile += kSumThreads) {
      for (int64_t slice = 0; slice < plan.slices; ++slice) {
        sum += static_cast<double>(plan.dA[tile * units + head * plan.slices + slice]);
      }
    }
    sum = block_sum(sum, memory);
    if (writes) *p.dA.at<float>(head) = static_cast<float>(sum);
  }
  if (p.ddt_bias) {
    double sum = 0.0;
    for (int64_t chunk = threadIdx.x; chunk < plan.chunks.count; chunk += kSumThreads) {
      sum += static_cast<double>(plan.dbias[chunk * p.heads + head]);
    }
    sum = block_sum(sum, memory);
    if (writes) *p.ddt_bias.at<float>(head) = static_cast<float>(sum);
  }
  if (!p.dD) return;
  const int width = plan.shape.width;
  const int column = static_cast<int>(threadIdx.x) % width;
  double whole = 0.0;
  for (int64_t slice = 0; slice < plan.slices; ++slice) {
    double sum = 0.0;
    for (int64_t tile = threadIdx.x / width; tile < plan.tiles(); tile += kSumThreads / width) {
      sum += static_cast<double>(
          plan.dD[(tile * units + head * plan.slices + slice) * width + column]);
    }
    if (p.dD.ndim == 1) {
      whole += block_sum(sum, memory);
      continue;
    }
    __syncthreads();
    memory[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= width) continue;
    for (int i = column + width; i < kSumThreads; i += width) sum += memory[i];
    const int64_t element = slice * width + column;
    if (element < p.width) *p.dD.at<float>(head, element) = static_cast<float>(sum);
  }
  if (p.dD.ndim == 1 && writes) *p.dD.at<float>(head) = static_cast<float>(whole);
}

}  // namespace hax::ssd
