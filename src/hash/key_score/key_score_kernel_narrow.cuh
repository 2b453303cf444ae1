// The MLP for up to 32 features, whose hidden layers fit into the registers of a warp: 16 tokens go
// through both layers without leaving them.
#pragma once

#include "hash/feature_tile.cuh"
#include "hash/key_score/key_score_kernel_forward.cuh"

namespace hax::key_score {

inline constexpr int kNarrowWidth = 2 * kFeatureBlock;
inline constexpr int kNarrowBlocks = kNarrowWidth / 8;  // of 8 outputs
inline constexpr int kNarrowSteps = kNarrowWidth / 16;  // of 16 inputs
inline constexpr int kNarrowRow = kFeatureBlock + 4;    // floats of a row of queries
static_assert(kCudaTileTokens == 16 * kForwardWarps);

// W1 as second operands, its inputs in the order in which a lane holds features (feature_tile.cuh),
// k before q'; keys come unscaled. One thread for every (step, block, lane).
template <int Pieces>
__device__ void pack_narrow(const Inputs& p, int index, uint32_t* to) {
  if (index >= kNarrowSteps * kNarrowBlocks * kWarp) return;
  const int lane = index % kWarp, output = index / kWarp % kNarrowBlocks * 8 + lane / 4;
  const int feature = fragment_feature(index / kWarp / kNarrowBlocks, lane);
  const bool query = feature >= kFeatureBlock;
  float value[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int n = feature % kFeatureBlock + i;
    value[i] = 0.0f;
    if (output >= p.width() || n >= p.features) continue;
    value[i] = device::load_any(p.W1, p.W1.offset(output, query ? p.features + n : n));
    if (!query) value[i] *= p.k_scale;
  }
  uint32_t low[Pieces], high[Pieces];
  device::split_bf16(low, value[0], value[1]);
  device::split_bf16(high, value[2], value[3]);
  uint2* words = reinterpret_cast<uint2*>(to) + index / kWarp * Pieces * kWarp + lane;
#pragma unroll
  for (int piece = 0; piece < Pieces; ++piece) words[piece * kWarp] = {low[piece], high[piece]};
}

// Weights of a layer in memory, as pack_narrow and pack_weights leave them.
template <int Pieces>
struct PackedWeights {
  const uint2* words;

  __device__ void operator()(uint32_t (&b)[Pieces][2], int step, int block) const {
#pragma unroll
    for (int piece = 0; piece < Pieces; ++piece) {
      const int at = ((step * kNarrowBlocks + block) * Pieces + piece) * kWarp;
      const uint2 pair = __ldg(words + at + threadIdx.x % kWarp);
      b[piece][0] = pair.x;
      b[piece][1] = pair.y;
    }
  }
};

// sums += a times the weights of a step, for all outputs. weights(b, step, block): an operand.
template <int Pieces, int PiecesA, class Weights>
__device__ void add_step(float (&sums)[kNarrowBlocks][4], const uint32_t (&a)[PiecesA][4],
                         const Weights& weights, int step) {
#pragma unroll
  for (int block = 0; block < kNarrowBlocks; ++block) {
    uint32_t b[Pieces][2];
    weights(b, step, block);
    device::mma_pieces(sums[block], sums[block], a, b);
  }
}

__device__ inline void start_sums(float (&sums)[kNarrowBlocks][4], const float* bias, int lane) {
#pragma unroll
  for (int block = 0; block < kNarrowBlocks; ++block) {
    const float2 pair = *reinterpret_cast<const float2*>(bias + block * 8 + lane % 4 * 2);
    sums[block][0] = sums[block][2] = pair.x;
    sums[block][1] = sums[block][3] = pair.y;
  }
}

// A product's result, 16 columns from 16 step on, as the next one's first operand, as it is laid out
// already. f: applied to each number.
template <int Pieces, int Blocks, class F>
__device__ void result_fragment(uint32_t (&a)[Pieces][4], const float (&result)[Blocks][4],
                                int step, F&& f) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* pair = result[2 * step + i / 2] + i % 2 * 2;
    uint32_t pieces[Pieces];
    device::split_bf16(pieces, f(pair[0]), f(pair[1]));
#pragma unroll
    for (int piece = 0; piece < Pieces; ++piece) a[piece][i] = pieces[piece];
  }
}

// Scores, without b3, of tokens r and r + 8 of a warp from the first layer's sums.
template <int Pieces, class Weights>
__device__ void second_layer(float (&score)[2], float (&sums)[kNarrowBlocks][4],
                             const Weights& weights, const float* b2, const float* W3, int lane) {
  uint32_t hidden[kNarrowSteps][Pieces][4];
#pragma unroll
  for (int step = 0; step < kNarrowSteps; ++step) result_fragment(hidden[step], sums, step, relu);
  start_sums(sums, b2, lane);
#pragma unroll
  for (int step = 0; step < kNarrowSteps; ++step) {
    add_step<Pieces>(sums, hidden[step], weights, step);
  }
  score[0] = score[1] = 0.0f;
#pragma unroll
  for (int block = 0; block < kNarrowBlocks; ++block) {
    const float2 weight = *reinterpret_cast<const float2*>(W3 + block * 8 + lane % 4 * 2);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      score[half] = fmaf(weight.x, relu(sums[block][2 * half]), score[half]);
      score[half] = fmaf(weight.y, relu(sums[block][2 * half + 1]), score[half]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) score[half] = device::warp_sum<4>(score[half]);
}

// A block for every (slot of a tile, head), a warp for every 16 of its tokens.
template <class T>
__global__ void __launch_bounds__(kQueryThreads, 2)
    narrow_kernel(const __grid_constant__ ForwardParams p,
                  const __grid_constant__ CudaForwardPlan plan, bool vectors) {
  constexpr int kCount = kPieces<T>;
  __shared__ float queries[kCudaTileTokens * kNarrowRow];
  __shared__ double shared[kQueryThreads];
  InputReader<T> reader(p, plan.query, blockIdx.x);
  const SequenceTiles::Tile& tile = reader.tile;
  if (tile.begin >= tile.end) return;
  if (p.one_launch() && tile.range.length <= kCudaShortTokens) return;  // done already
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int features = static_cast<int>(p.features), feature = lane % 4 * kLaneFeatures;
  const int count = static_cast<int>(tile.end - tile.begin), row = warp * 16 + lane / 4;
  FeatureWords<T> keys[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int token = row + 8 * half;
    keys[half].load(reader.key_row(tile.begin + min(token, count - 1)), p.k.stride[3], feature,
                    token < count ? features : 0, vectors);
  }
  for (int i = threadIdx.x; i < kCudaTileTokens * kNarrowRow; i += kQueryThreads) queries[i] = 0.0f;
  __syncthreads();
  reader.read_sums(tile.begin, tile.end, queries, kNarrowRow, shared);
  if (warp * 16 >= count) return;

  constexpr int kWords = kNarrowSteps * kNarrowBlocks * kCount * kWarp;
  const PackedWeights<kCount> W1{reinterpret_cast<const uint2*>(plan.weights)};
  const PackedWeights<kCount> W2{W1.words + kWords};
  const auto* b1 = reinterpret_cast<const float*>(W2.words + kWords);
  const float *b2 = b1 + kNarrowWidth, *W3 = b2 + kNarrowWidth;
  float sums[kNarrowBlocks][4];
  start_sums(sums, b1, lane);
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t a[kExactPieces<T>][4];
    feature_fragment(a, step, [&](int half, int i) { return keys[half][i]; });
    add_step<kCount>(sums, a, W1, step);
  }
  float query[2][kLaneFeatures];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float* from = queries + (row + 8 * half) * kNarrowRow + feature;
#pragma unroll
    for (int i = 0; i < kLaneFeatures; ++i) query[half][i] = from[i];
    if (p.sequence_norm) continue;
    double squares = 0.0;
#pragma unroll
    for (int i = 0; i < kLaneFeatures; ++i) {
      squares += static_cast<double>(query[half][i]) * query[half][i];
    }
    squares += __shfl_xor_sync(0xffffffffu, squares, 1);
    squares += __shfl_xor_sync(0xffffffffu, squares, 2);
    const double factor = RunningSum::scale(squares);
#pragma unroll
    for (int i = 0; i < kLaneFeatures; ++i) {
      query[half][i] = static_cast<float>(query[half][i] * factor);
    }
  }
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t a[kCount][4];
    feature_fragment(a, step, [&](int half, int i) { return query[half][i]; });
    add_step<kCount>(sums, a, W1, 2 + step);
  }
  float score[2];
  second_layer<kCount>(score, sums, W2, b2, W3, lane);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = score[half] + *p.b3.at<float>(0);
    const int token = row + 8 * half;
    if (lane % 4 == 0 && token < count) {
      *p.score.at<float>(tile.range.row, reader.head, tile.range.begin + tile.begin + token) = sum;
    }
  }
}

}  // namespace hax::key_score
