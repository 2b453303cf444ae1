// Sums over rows that kernels left as one row of numbers for each block: all of a pass are added up in one launch.
#include <algorithm>

#include "model/cuda_rows.cuh"

namespace joint_recall {
namespace {

using namespace cuda_rows;

constexpr int kSumRows = 8;     // threads for a column
constexpr int kSumLaunch = 24;  // sums a launch takes

struct SumList {
  CudaBackend::BlockSums at[kSumLaunch];
};

__global__ void __launch_bounds__(kWarp* kSumRows)
    finish_sums_kernel(const __grid_constant__ SumList list) {
  const CudaBackend::BlockSums& own = list.at[blockIdx.y];
  const int column = static_cast<int>(blockIdx.x * kWarp + threadIdx.x);
  __shared__ float shares[kSumRows][kWarp];
  float sum = 0.0f;
  if (column < own.columns) {
    const float* from = own.partial + column;
#pragma unroll 8
    for (int block = static_cast<int>(threadIdx.y); block < own.blocks; block += kSumRows) {
      sum += __ldcg(from + int64_t{block} * own.stride);
    }
  }
  shares[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= own.columns) return;
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < kSumRows; ++i) total += shares[i][threadIdx.x];
  own.target[column] += total;
}

}  // namespace

float* CudaBackend::block_sums(int64_t blocks, int64_t columns) {
  if (sums_taken_ == sum_memory_.size()) sum_memory_.emplace_back();
  auto& [memory, size] = sum_memory_[sums_taken_++];
  const int64_t count = blocks * columns;
  if (count > size) {
    if (memory != nullptr) release(memory);
    memory = nullptr;
    memory = static_cast<float*>(allocate(static_cast<size_t>(count) * sizeof(float)));
    size = count;
  }
  return memory;
}

void CudaBackend::finish_sums() {
  for (size_t first = 0; first < sums_.size(); first += kSumLaunch) {
    const size_t count = std::min<size_t>(kSumLaunch, sums_.size() - first);
    SumList list = {};
    int32_t columns = 1;
    for (size_t i = 0; i < count; ++i) {
      list.at[i] = sums_[first + i];
      columns = std::max(columns, list.at[i].columns);
    }
    const dim3 grid(static_cast<unsigned>(blocks_for(columns, kWarp)),
                    static_cast<unsigned>(count));
    finish_sums_kernel<<<grid, dim3(kWarp, kSumRows), 0, here()>>>(list);
    check_launch("adding up sums");
  }
  sums_.clear();
  sums_taken_ = 0;
}

}  // namespace joint_recall
