// Gradients of the MLP. Only tokens whose score has a gradient run through it, which after the
// ranking loss are few; they are gathered over tiles until there are enough for a batch.
#pragma once

#include "device/early_start.cuh"
#include "hash/key_score/key_score_kernel_batch.cuh"

namespace hax::key_score {

// A block for every part of the (slots of tiles, heads).
template <class T>
__global__ void __launch_bounds__(kQueryThreads)
    gradient_kernel(const __grid_constant__ BackwardParams p,
                    const __grid_constant__ CudaBackwardPlan plan) {
  extern __shared__ uint4 memory[];
  __shared__ double shared[kQueryThreads];
  __shared__ float dscore[kCudaTileTokens], batch_dscore[16];
  const BackwardShape shape(p);
  float* floats = reinterpret_cast<float*>(memory);
  float* queries = floats + 4 * shape.buffer();
  Batch batch(p, shape, plan, floats, batch_dscore);
  const int features = static_cast<int>(p.features), thread = threadIdx.x;
  const int64_t tasks = p.cuda_tiles().slots() * p.heads;
  int count = 0;
  for (int64_t task = blockIdx.x * tasks / plan.parts; task < (blockIdx.x + 1) * tasks / plan.parts;
       ++task) {
    InputReader<T> reader(p, plan.query, task);
    const SequenceTiles::Tile& tile = reader.tile;
    if (p.one_launch() && tile.range.length <= kCudaShortTokens) continue;  // done already
    bool wanted = false;
    if (thread < tile.end - tile.begin) {
      dscore[thread] =
          *p.dscore.at<float>(tile.range.row, reader.head, tile.range.begin + tile.begin + thread);
      wanted = dscore[thread] != 0.0f;
    }
    if (!__syncthreads_or(wanted)) continue;
    for (int64_t begin = tile.begin; begin < tile.end; begin += shape.query_tokens) {
      const int64_t end = min(begin + shape.query_tokens, tile.end);
      reader.read_queries(begin, end, queries, features, shared);
      for (int64_t t = begin; t < end; ++t) {
        const float gradient = dscore[t - tile.begin];
        if (gradient == 0.0f) continue;
        const T* keys = reader.key_row(t);
        for (int n = thread; n < shape.width; n += kQueryThreads) {
          batch.input[count * shape.row + n] =
              n < features ? reader.key(keys, n) : queries[(t - begin) * features + n - features];
        }
        if (thread == 0) batch.dscore[count] = gradient;
        if (++count < shape.batch) continue;
        batch.flush();
        count = 0;
      }
      __syncthreads();
    }
  }
  if (count > 0) batch.flush();
}

inline constexpr int kReduceGradients = 32;  // of a block
inline constexpr int kReduceGroups = kQueryThreads / kReduceGradients;

// Adds the parts of each gradient: a group of threads takes neighbouring parts, and groups are added in order.
__global__ void __launch_bounds__(kQueryThreads)
    reduce_kernel(const __grid_constant__ BackwardParams p,
                  const __grid_constant__ CudaBackwardPlan plan) {
  __shared__ float sums[kReduceGroups][kReduceGradients];
  device::wait_for_previous();
  const BackwardShape shape(p);
  const int lane = threadIdx.x % kReduceGradients, group = threadIdx.x / kReduceGradients;
  const int64_t index = int64_t{blockIdx.x} * kReduceGradients + lane;
  const int64_t row = index / shape.width, column = index % shape.width;
  const bool used = index < shape.gradient_floats();
  float sum = 0.0f;
  const auto add = [&](const float* gradients, int64_t parts) {
    const int64_t first = parts * group / kReduceGroups;
    const int64_t last = used ? parts * (group + 1) / kReduceGroups : first;
#pragma unroll 8
    for (int64_t part = first; part < last; ++part) {
      sum += gradients[part * shape.gradient_floats() + index];
    }
  };
  add(plan.short_gradients, plan.short_parts);
  add(plan.gradients, plan.parts);
  sums[group][lane] = sum;
  __syncthreads();
  if (group > 0 || !used) return;
#pragma unroll
  for (int g = 1; g < kReduceGroups; ++g) sum += sums[g][lane];
  const auto store = [&](const Tensor& to, int64_t offset) {
    if (to) static_cast<float*>(to.data)[offset] = sum;
  };
  const int64_t width = shape.width;
  if (row < width) {
    store(p.dW1, p.dW1.offset(row, column));
  } else if (row < 2 * width) {
    store(p.dW2, p.dW2.offset(row - width, column));
  } else if (row == 2 * width) {
    store(p.db1, p.db1.offset(column));
  } else if (row == 2 * width + 1) {
    store(p.db2, p.db2.offset(column));
  } else if (row == 2 * width + 2) {
    store(p.dW3, p.dW3.offset(0, column));
  } else if (column == 0) {
    store(p.db3, 0);
  }
}

}  // namespace hax::key_score
