// dA, ddt_bias and dD of ssd's backward: sums over chunks, in an order that never changes.
#pragma once

#include "scan/ssd/ssd_kernel_backward.cuh"

namespace hax::ssd {

inline constexpr int kSumThreads = 512;

// Sum of a block's values; the first warp receives it.
__device__ inline double block_sum(double value, double* memory) {
  const int lane = threadIdx.x % device::kWarp, warp = threadIdx.x / device::kWarp;
  const auto sum_warp = [](double& sum) {
#pragma unroll
    for (int distance = device::kWarp / 2; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    }
  };
  sum_warp(value);
  __syncthreads();
  if (lane == 0) memory[warp] = value;
  __syncthreads();
  if (warp == 0) {
    value = lane < kSumThreads / device::kWarp ? memory[lane] : 0.0;
    sum_warp(value);
  }
  return value;
}

// Sum over rows of one column of a (rows, columns) matrix, by every `stride`-th thread from `first` on.
__device__ inline double sum_rows(const float* from, int64_t rows, int64_t columns, int64_t first,
                                  int64_t stride) {
  double sum = 0.0;
#pragma unroll 8
  for (int64_t row = first; row < rows; row += stride) {
    sum += static_cast<double>(from[row * columns]);
  }
  return sum;
}

// A block for every head.
__global__ void __launch_bounds__(kSumThreads)
    backward_sum_parameters_kernel(const __grid_constant__ BackwardParams p,
                                   const __grid_constant__ CudaBackwardPlan plan) {
  __shared__ double memory[kSumThreads];
  const int64_t head = blockIdx.x, units = plan.units(p.heads), chunks = plan.chunks.count;
  const auto total = [&](const float* from, int64_t rows, int64_t members, int64_t count) {
    double sum = 0.0;
    for (int64_t i = 0; i < count; ++i) {
      sum += sum_rows(from + head * count + i, rows, members, threadIdx.x, kSumThreads);
    }
    return static_cast<float>(block_sum(sum, memory));
  };
  if (p.dA) {
    const float sum = total(plan.dA, plan.parts * chunks, units, plan.slices);
    if (threadIdx.x == 0) *p.dA.at<float>(head) = sum;
  }
  if (p.ddt_bias) {
    const float sum = total(plan.dbias, chunks, p.heads, 1);
    if (threadIdx.x == 0) *p.ddt_bias.at<float>(head) = sum;
  }
  if (p.dD && p.dD.ndim == 1) {
    const float sum = total(plan.dD, chunks, units, plan.slices);
    if (threadIdx.x == 0) *p.dD.at<float>(head) = sum;
  }
  if (!p.dD || p.dD.ndim == 1) return;
  const int width = plan.shape.width;
  const int column = static_cast<int>(threadIdx.x) % width;
  for (int64_t slice = 0; slice < plan.slices; ++slice) {
    __syncthreads();
    memory[threadIdx.x] = sum_rows(plan.dD + (head * plan.slices + slice) * width + column, chunks,
                                   units * width, threadIdx.x / width, kSumThreads / width);
    __syncthreads();
    const int64_t element = slice * width + column;
    if (threadIdx.x >= width || element >= p.width) continue;
    double sum = 0.0;
    for (int i = column; i < kSumThreads; i += width) sum += memory[i];
    *p.dD.at<float>(head, element) = static_cast<float>(sum);
  }
}

}  // namespace hax::ssd
