// What comes before the MLP: sums of queries and packed weights.
#pragma once

#include "hash/key_score/key_score_kernel_narrow.cuh"

namespace hax::key_score {

// b1, b2 and W3 in fp32, zeros beyond their ends.
__device__ inline void pack_vectors(const Inputs& p, const MlpShape& shape, float* to) {
  const int columns = shape.columns();
  for (int i = threadIdx.x; i < columns; i += kQueryThreads) {
    const bool used = i < p.width();
    to[i] = used ? *p.b1.at<float>(i) : 0.0f;
    to[columns + i] = used ? *p.b2.at<float>(i) : 0.0f;
    to[2 * columns + i] = used ? device::load_any(p.W3, i * p.W3.stride[1]) : 0.0f;
  }
}

// Blocks for every (slot of a tile, head), and after them one that packs the vectors and some that
// pack the weights.
template <class T>
__global__ void __launch_bounds__(kQueryThreads)
    prepare_kernel(const __grid_constant__ Inputs p, const __grid_constant__ CudaForwardPlan plan) {
  const int64_t tiles = p.cuda_tiles().slots() * p.heads;
  if (blockIdx.x < tiles) return tile_sums<T>(p, plan.query, blockIdx.x);
  const MlpShape shape = mlp_shape(p);
  const int64_t blocks = ceil_div(shape.steps * shape.blocks * kWarp, kQueryThreads);
  if (blockIdx.x == tiles) {
    auto* vectors = reinterpret_cast<float*>(plan.weights + 2 * shape.weight_words(kPieces<T>));
    return pack_vectors(p, shape, vectors);
  }
  const int64_t block = blockIdx.x - tiles - 1;
  const bool second = block >= blocks;
  const int64_t index = block % blocks * kQueryThreads + threadIdx.x;
  if (narrow(p) && !second) return pack_narrow<kPieces<T>>(p, index, plan.weights);
  pack_weights<kPieces<T>>(second ? p.W2 : p.W1, shape, index,
                           plan.weights + (second ? shape.weight_words(kPieces<T>) : 0));
}

}  // namespace hax::key_score
