// Scores in one launch, see key_score_kernel_short_inputs.cuh.
#pragma once

#include "device/early_start.cuh"
#include "hash/key_score/key_score_kernel_short_inputs.cuh"
#include "hash/key_score/key_score_kernel_short_weights.cuh"

namespace hax::key_score {

template <class T>
struct ShortMemory : ShortWeights, ShortQueries<T> {};

// A block for every (slot of a tile, head), a warp for every 16 of its tokens.
template <class T>
__global__ void __launch_bounds__(kQueryThreads, 3)
    short_kernel(const __grid_constant__ ForwardParams p, bool vectors, bool weight_pairs) {
  __shared__ ShortMemory<T> shared;
  device::wait_for_previous();
  device::start_next();
  const SequenceTiles::Tile tile = p.cuda_tiles().at(blockIdx.x / p.heads);
  const int64_t head = blockIdx.x % p.heads;
  if (tile.begin >= tile.end || tile.range.length > kCudaShortTokens) return;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int count = static_cast<int>(tile.end - tile.begin), row = warp * 16 + lane / 4;
  FeatureWords<T> keys[2];
  read_keys(keys, p, tile, head, vectors);
  read_queries(p, tile, head, vectors, shared);
  pack_short<T>(p, weight_pairs, shared);
  __syncthreads();
  add_warps(shared);
  __syncthreads();
  if (warp * 16 >= count) return;

  float sums[kNarrowBlocks][4];
  start_sums(sums, shared.b1, lane);
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t a[kExactPieces<T>][4];
    feature_fragment(a, step, [&](int half, int i) { return keys[half][i]; });
    add_step<2>(sums, a, shared.W1, step);
  }
  float query[kFeatureBlock / 8][4];
  scaled_queries(query, shared);
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t a[2][4];
    result_fragment(a, query, step, [](float x) { return x; });
    add_step<2>(sums, a, shared.W1, 2 + step);
  }
  float score[2];
  second_layer<2>(score, sums, shared.W2, shared.b2, shared.W3, lane);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int token = row + 8 * half;
    if (lane % 4 == 0 && token < count) {
      *p.score.at<float>(tile.range.row, head, tile.range.begin + tile.begin + token) =
          score[half] + *p.b3.at<float>(0);
    }
  }
}

}  // namespace hax::key_score
