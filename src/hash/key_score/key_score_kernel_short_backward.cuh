// Gradients of the MLP of short sequences: tokens whose score has a gradient are gathered into batches.
#pragma once

#include "device/early_start.cuh"
#include "hash/key_score/key_score_kernel_batch.cuh"
#include "hash/key_score/key_score_kernel_short_batch.cuh"

namespace hax::key_score {

inline constexpr int kShortParts = 264;  // blocks at once, two a multiprocessor of the H100

// Writes a block's gradients as reduce_kernel reads them.
__device__ inline void store_gradients(const Inputs& p, ShortGradients& total, float* to) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int width = static_cast<int>(p.width()), features = static_cast<int>(p.features);
  float *const dW2 = to + width * width, *const vectors = dW2 + width * width;
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const int column = warp * 8 + lane % 4 * 2 + e;
    const bool key = column < kFeatureBlock;
    const int n = key ? key_feature(column) : column - kFeatureBlock;
#pragma unroll
    for (int i = 0; i < 2 * kNarrowSteps; ++i) {
      const int row = i / 2 * 16 + i % 2 * 8 + lane / 4, at = i % 2 * 2 + e;
      if (row >= width) continue;
      if (n < features) {
        to[row * width + (key ? n : features + n)] =
            total.dW1[i / 2][at] * (key ? p.k_scale : 1.0f);
      }
      if (column < width) dW2[row * width + column] = total.dW2[i / 2][at];
    }
    float* const sums[3] = {&total.db1[e], &total.db2[e], &total.dW3[e]};
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      float sum = *sums[i];
#pragma unroll
      for (int distance = 4; distance < kWarp; distance *= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
      }
      if (lane < 4 && column < width) vectors[i * width + column] = sum;
    }
  }
  for (int i = threadIdx.x; i < width; i += kQueryThreads) {
    vectors[3 * width + i] = i == 0 ? total.db3 : 0.0f;
  }
}

// A block for every part of the (slots of tiles, heads).
template <class T>
__global__ void __launch_bounds__(kQueryThreads, 2)
    short_gradient_kernel(const __grid_constant__ BackwardParams p,
                          const __grid_constant__ CudaBackwardPlan plan, bool vectors,
                          bool weight_pairs) {
  extern __shared__ uint4 memory[];
  auto& shared = *reinterpret_cast<ShortBackwardMemory<T>*>(memory);
  device::wait_for_previous();
  device::start_next();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, thread = threadIdx.x;
  ShortGradients total;
  bool packed = false;
  int filled = 0, turn = 0;
  const int64_t tasks = p.cuda_tiles().slots() * p.heads;
  const int64_t last = (blockIdx.x + 1) * tasks / plan.short_parts;
  for (int64_t task = blockIdx.x * tasks / plan.short_parts; task < last; ++task) {
    const SequenceTiles::Tile tile = p.cuda_tiles().at(task / p.heads);
    const int64_t head = task % p.heads;
    if (tile.begin >= tile.end || tile.range.length > kCudaShortTokens) continue;
    float dscore = 0.0f;
    if (thread < tile.end - tile.begin) {
      dscore = *p.dscore.at<float>(tile.range.row, head, tile.range.begin + tile.begin + thread);
    }
    uint32_t(&wanted)[kCudaTileTokens / kWarp] = shared.wanted[turn];
    const uint32_t mask = __ballot_sync(0xffffffffu, dscore != 0.0f);
    if (lane == 0 && warp < kCudaTileTokens / kWarp) wanted[warp] = mask;
    __syncthreads();
    // Place among the wanted tokens, and their number.
    const auto place = [&](int token) {
      int before = 0;
#pragma unroll
      for (int w = 0; w < kCudaTileTokens / kWarp; ++w) {
        const uint32_t own = token >= (w + 1) * kWarp ? ~0u
                             : token < w * kWarp      ? 0u
                                                      : (1u << token % kWarp) - 1;
        before += __popc(wanted[w] & own);
      }
      return before;
    };
    const int count = place(kCudaTileTokens);
    turn ^= 1;
    if (count == 0) continue;
    FeatureWords<T> keys[2];
    read_keys(keys, p, tile, head, vectors);
    read_queries(p, tile, head, vectors, shared);
    if (!packed) pack_short<T>(p, weight_pairs, shared);
    __syncthreads();
    if (!packed) shared.W2_backward.transpose(shared.W2);
    packed = true;
    add_warps(shared);
    __syncthreads();
    const int row = warp * 16 + lane / 4;
    float query[kFeatureBlock / 8][4];
    const uint32_t own_wanted = wanted[warp / 2] >> warp % 2 * 16 & 0xffffu;
    if (own_wanted != 0) scaled_queries(query, shared);
    for (int base = 0; base < count;) {
      const int taken = min(kBatch - filled, count - base);
      // Row of the batch that a token goes to, if any.
      const auto target = [&](int token) {
        const int at = place(token) - base;
        const bool is = wanted[token / kWarp] >> token % kWarp & 1 && at >= 0 && at < taken;
        return is ? filled + at : -1;
      };
      if (thread < kCudaTileTokens) {
        const int to = target(thread);
        if (to >= 0) shared.dscore[to] = dscore;
      }
      if (own_wanted != 0) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int to = target(row + 8 * half);
          if (to < 0) continue;
#pragma unroll
          for (int i = 0; i < kLaneFeatures; i += 2) {
            shared.input.store(to, key_column(lane % 4, i / 4, i / 2 % 2), keys[half][i],
                               keys[half][i + 1]);
          }
#pragma unroll
          for (int n = 0; n < kFeatureBlock / 8; ++n) {
            shared.input.store(to, kFeatureBlock + n * 8 + lane % 4 * 2, query[n][2 * half],
                               query[n][2 * half + 1]);
          }
        }
      }
      filled += taken;
      base += taken;
      if (filled < kBatch) break;
      run_batch(shared, filled, total);
      filled = 0;
    }
  }
  if (filled > 0) {
    __syncthreads();
    for (int i = thread; i < (kBatch - filled) * kNarrowWidth / 2; i += kQueryThreads) {
      shared.input.store(filled + i / (kNarrowWidth / 2), i % (kNarrowWidth / 2) * 2, 0.0f, 0.0f);
    }
    run_batch(shared, filled, total);
  }
  store_gradients(p, total, plan.short_gradients + blockIdx.x * BackwardShape(p).gradient_floats());
}

}  // namespace hax::key_score
