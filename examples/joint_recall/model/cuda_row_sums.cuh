// Passes over rows that also sum over all of them, one or two sums for each column.
#pragma once

#include <algorithm>

#include "model/cuda_rows.cuh"

namespace joint_recall::cuda_rows {

// Blocks of such a pass at most: four times the multiprocessors of a large GPU, and the same on every GPU, since the
// order of the sums depends on it.
constexpr int64_t kSumBlocks = 528;
constexpr int kSumGroup = 24;  // blocks whose sums are added up first
constexpr int64_t kSumPartials = kSumBlocks + (kSumBlocks + kSumGroup - 1) / kSumGroup;
static_assert(kSumPartials - kSumBlocks < CudaBackend::kTickets);
constexpr int kSumThreads = 256;
constexpr int64_t kSumSharedBytes = 48 * 1024;

// Where rows add what they have: a row of numbers for each group of lanes, then over groups and blocks.
struct RowSums {
  float* own = nullptr;  // of these lanes, in shared memory
  int columns = 0;

  __device__ void add(int sum, int column, const Octet& octet) const {
    float* target = own + sum * columns + column;
    if (columns % kOctet == 0) {
      auto* four = reinterpret_cast<float4*>(target);
#pragma unroll
      for (int i = 0; i < kOctet / 4; ++i) {
        float4 sum4 = four[i];
        sum4.x += octet.at[4 * i];
        sum4.y += octet.at[4 * i + 1];
        sum4.z += octet.at[4 * i + 2];
        sum4.w += octet.at[4 * i + 3];
        four[i] = sum4;
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kOctet; ++i) {
      if (column + i < columns) target[i] += octet.at[i];
    }
  }
};

// Whether this block is the last of `count` to come here; then it sees what the others wrote.
__device__ inline bool last_of(int32_t* ticket, int count) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(ticket, 1) == count - 1;
    if (last) *ticket = 0;
  }
  __syncthreads();
  const bool result = last;
  __syncthreads();
  __threadfence();
  return result;
}

__device__ inline float sum_of_rows(const float* first, int stride, int count) {
  float sum = 0.0f;
#pragma unroll 12
  for (int i = 0; i < count; ++i) sum += __ldcg(first + int64_t{i} * stride);
  return sum;
}

template <class F>
__global__ void __launch_bounds__(kSumThreads, 3)
    row_sums_kernel(int64_t rows, int lanes, int columns, int sums, F f, float* partial,
                    int32_t* ticket, float* target0, float* target1) {
  extern __shared__ __align__(16) float shared[];
  const int groups = static_cast<int>(blockDim.x) / lanes,
            group = static_cast<int>(threadIdx.x) / lanes;
  const int width = sums * columns;
  for (int i = static_cast<int>(threadIdx.x); i < groups * width; i += blockDim.x) shared[i] = 0.0f;
  __syncthreads();
  const Lanes own = {lanes, static_cast<int>(threadIdx.x) % lanes};
  const RowSums row_sums = {shared + group * width, columns};
  const int64_t step = int64_t{gridDim.x} * groups;
  for (int64_t first = int64_t{blockIdx.x} * groups; first < rows; first += step) {
    const int64_t row = first + group;
    f(row < rows ? row : rows - 1, row < rows, own, row_sums);
  }
  if (width == 0) return;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < width; i += blockDim.x) {
    float sum = 0.0f;
    for (int g = 0; g < groups; ++g) sum += shared[g * width + i];
    partial[int64_t{blockIdx.x} * width + i] = sum;
  }
  // The last block of a group to come here adds the group's sums up, and the last group the groups', in order.
  const int blocks = static_cast<int>(gridDim.x),
            group_count = (blocks + kSumGroup - 1) / kSumGroup;
  const int own_group = static_cast<int>(blockIdx.x) / kSumGroup, first = own_group * kSumGroup;
  const int members = min(kSumGroup, blocks - first);
  float* group_partial = partial + int64_t{blocks} * width;
  if (!last_of(ticket + 1 + own_group, members)) return;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += blockDim.x) {
    group_partial[int64_t{own_group} * width + i] =
        sum_of_rows(partial + int64_t{first} * width + i, width, members);
  }
  if (!last_of(ticket, group_count)) return;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += blockDim.x) {
    float* target = i < columns ? target0 + i : target1 + (i - columns);
    *target += sum_of_rows(group_partial + i, width, group_count);
  }
}

struct RowSumsShape {
  int lanes, threads;
  int64_t blocks, shared_bytes;
};

inline RowSumsShape row_sums_shape(int64_t rows, int64_t columns, int64_t sums) {
  RowSumsShape shape = {lanes_for(columns), kSumThreads, 0, 0};
  const auto bytes = [&] {
    return shape.threads / shape.lanes * sums * columns * static_cast<int64_t>(sizeof(float));
  };
  while (bytes() > kSumSharedBytes && shape.threads > kWarp) shape.threads /= 2;
  if (bytes() > kSumSharedBytes) throw ModelError("rows so wide are more than the GPU part takes");
  shape.shared_bytes = bytes();
  shape.blocks = std::min(kSumBlocks, blocks_for(rows, shape.threads / shape.lanes));
  return shape;
}

// f(row, counts, lanes, row_sums) for every row; adds the sums, which rows add to where `counts`, to the targets.
// Where it does not, f must write nothing. partial: kSumPartials * sums * columns numbers.
template <class F>
void for_rows_with_sums(cudaStream_t stream, int64_t rows, int64_t columns, int64_t sums,
                        const F& f, float* partial, int32_t* ticket, float* target0,
                        float* target1) {
  const RowSumsShape shape = row_sums_shape(rows, columns, sums);
  if (shape.blocks == 0) return;
  row_sums_kernel<<<static_cast<unsigned>(shape.blocks), shape.threads,
                    static_cast<size_t>(shape.shared_bytes), stream>>>(
      rows, shape.lanes, static_cast<int>(columns), static_cast<int>(sums), f, partial, ticket,
      target0, target1);
  check_launch("launching over rows");
}

}  // namespace joint_recall::cuda_rows
