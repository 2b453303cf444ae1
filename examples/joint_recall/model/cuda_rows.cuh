// What the CUDA backend's kernels share: functors over elements, over rows with a warp each, and sums over rows in
// an order that shapes alone fix.
#pragma once

#include <cstdint>
#include <string>

#include "model/backend_cuda.hpp"
#include "model/matrix.hpp"

namespace joint_recall::cuda_rows {

constexpr int kWarp = 32;
constexpr int kThreads = 256;

inline int64_t blocks_for(int64_t count, int64_t per_block) {
  return (count + per_block - 1) / per_block;
}

inline void check_launch(const char* what) { check_cuda(cudaGetLastError(), what); }

__device__ inline float warp_sum(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class F>
__global__ void elements_kernel(int64_t rows, int64_t columns, F f) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < rows * columns) f(i / columns, i % columns);
}

// f(row, column) for every element.
template <class F>
void for_elements(cudaStream_t stream, int64_t rows, int64_t columns, const F& f) {
  const int64_t blocks = blocks_for(rows * columns, kThreads);
  if (blocks == 0) return;
  elements_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(rows, columns, f);
  check_launch("launching over elements");
}

template <class F>
__global__ void rows_kernel(int64_t rows, F f) {
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (row < rows) f(row, static_cast<int>(threadIdx.x % kWarp));
}

// f(row, lane) for every row, by a whole warp.
template <class F>
void for_rows(cudaStream_t stream, int64_t rows, const F& f) {
  const int64_t blocks = blocks_for(rows, kThreads / kWarp);
  if (blocks == 0) return;
  rows_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(rows, f);
  check_launch("launching over rows");
}

constexpr int64_t kRowsOfPartialSum = 256;

inline int64_t partial_sums_of(int64_t rows) { return blocks_for(rows, kRowsOfPartialSum); }

// partial[chunk, column] = sum of f(row, column) over the chunk's rows.
template <class F>
__global__ void column_sums_kernel(int64_t rows, int64_t columns, F f, float* partial) {
  constexpr int kLines = kThreads / kWarp;
  __shared__ float sums[kLines][kWarp];
  const int64_t column_blocks = (columns + kWarp - 1) / kWarp;
  const int64_t chunk = blockIdx.x / column_blocks;
  const int lane = threadIdx.x % kWarp, line = threadIdx.x / kWarp;
  const int64_t column = blockIdx.x % column_blocks * kWarp + lane;
  const int64_t first = chunk * kRowsOfPartialSum;
  const int64_t last = min(first + kRowsOfPartialSum, rows);
  float sum = 0.0f;
  if (column < columns) {
    for (int64_t row = first + line; row < last; row += kLines) sum += f(row, column);
  }
  sums[line][lane] = sum;
  __syncthreads();
  if (line != 0 || column >= columns) return;
  for (int other = 1; other < kLines; ++other) sum += sums[other][lane];
  partial[chunk * columns + column] = sum;
}

template <class F>
void column_sums(cudaStream_t stream, int64_t rows, int64_t columns, const F& f, float* partial) {
  const int64_t blocks = partial_sums_of(rows) * blocks_for(columns, kWarp);
  if (blocks == 0) return;
  column_sums_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(rows, columns, f,
                                                                             partial);
  check_launch("summing columns");
}

// target[column] += all partial sums, in order.
struct AddPartialSums {
  const float* partial;
  int64_t chunks, columns;
  float* target;
  __device__ void operator()(int64_t, int64_t column) const {
    float sum = 0.0f;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * columns + column];
    target[column] += sum;
  }
};

}  // namespace joint_recall::cuda_rows
