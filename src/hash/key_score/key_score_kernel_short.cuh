// Everything in one launch, for 16-bit types with up to 32 features and sequences up to kCudaShortTokens long: a block adds up
// the queries before its tile by itself, those in the tile by products with ones, and keeps the weights in shared
// memory. The norm is each token's own.
#pragma once

#include "device/async_copy.cuh"
#include "hash/key_score/key_score_kernel_narrow.cuh"

namespace hax::key_score {

inline constexpr int kShortRow = kFeatureBlock + 8;  // elements; an odd number of 16 bytes
inline constexpr int kQueryLanes = kFeatureBlock / kLaneFeatures;  // that share a token

// Weights of a layer as second operands, two pieces together.
struct SharedWeights {
  static constexpr int kOperands = kNarrowSteps * kNarrowBlocks;
  uint4 words[kOperands * kWarp];

  __device__ void operator()(uint32_t (&b)[2][2], int step, int block) const {
    const uint4 both = words[(step * kNarrowBlocks + block) * kWarp + threadIdx.x % kWarp];
    b[0][0] = both.x;
    b[0][1] = both.y;
    b[1][0] = both.z;
    b[1][1] = both.w;
  }
  // By all threads. weights(value, output, step, lane): the lane's four of a step.
  template <class F>
  __device__ void pack(F&& weights) {
#pragma unroll 2
    for (int i = threadIdx.x; i < kOperands * kWarp; i += kQueryThreads) {
      const int lane = i % kWarp, output = i / kWarp % kNarrowBlocks * 8 + lane / 4;
      float value[4] = {};
      weights(value, output, i / kWarp / kNarrowBlocks, lane);
      uint32_t low[2], high[2];
      device::split_bf16(low, value[0], value[1]);
      device::split_bf16(high, value[2], value[3]);
      words[i] = {low[0], high[0], low[1], high[1]};
    }
  }
};

template <class T>
struct ShortMemory {
  SharedWeights W1, W2;
  T queries[kCudaTileTokens * kShortRow];
  double sums[kForwardWarps][kFeatureBlock];      // of queries before the tile
  float high[kFeatureBlock], low[kFeatureBlock];  // their sum in two parts
  float b1[kNarrowWidth], b2[kNarrowWidth], W3[kNarrowWidth];
};

// Packs both layers. read(value, W, output, column): weights of an output, two neighbouring columns, of which both exist.
template <class T, class Read>
__device__ void pack_layers(const Inputs& p, ShortMemory<T>& shared, Read&& read) {
  const auto width = static_cast<int>(p.width()), features = static_cast<int>(p.features);
  const auto read_pair = [&](float* value, const Tensor& W, int output, int n, int count,
                             int before) {
    if (output >= width || n >= count) return;
    float pair[2];
    read(pair, W, output, before + n, n + 1 < count);
    value[0] = pair[0];
    if (n + 1 < count) value[1] = pair[1];
  };
  shared.W1.pack([&](float* value, int output, int step, int lane) {
    const bool key = step < 2;
    const int n = key ? fragment_feature(step, lane) : (step - 2) * 16 + lane % 4 * 2;
    const int before = key ? 0 : features;
    read_pair(value, p.W1, output, n, features, before);
    read_pair(value + 2, p.W1, output, n + (key ? 2 : 8), features, before);
    if (!key) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) value[i] *= p.k_scale;
  });
  shared.W2.pack([&](float* value, int output, int step, int lane) {
    const int n = step * 16 + lane % 4 * 2;
    read_pair(value, p.W2, output, n, width, 0);
    read_pair(value + 2, p.W2, output, n + 8, width, 0);
  });
}

template <class T>
__device__ void pack_short(const Inputs& p, bool weight_pairs, ShortMemory<T>& shared) {
  if (weight_pairs && p.W1.type == Type::fp32) {
    pack_layers(p, shared, [](float(&pair)[2], const Tensor& W, int output, int column, bool) {
      const float2 two = *reinterpret_cast<const float2*>(
          static_cast<const float*>(W.data) + output * static_cast<int>(W.stride[0]) + column);
      pair[0] = two.x;
      pair[1] = two.y;
    });
  } else if (weight_pairs) {
    pack_layers(p, shared, [](float(&pair)[2], const Tensor& W, int output, int column, bool) {
      device::unpack(pair, *reinterpret_cast<const device::Packed<T, 2>*>(
                               static_cast<const T*>(W.data) +
                               output * static_cast<int>(W.stride[0]) + column));
    });
  } else {
    pack_layers(p, shared, [](float(&pair)[2], const Tensor& W, int output, int column, bool both) {
      pair[0] = device::load_any(W, W.offset(output, column));
      pair[1] = both ? device::load_any(W, W.offset(output, column + 1)) : 0.0f;
    });
  }
  const int i = threadIdx.x;
  if (i >= kNarrowWidth) return;
  const bool used = i < p.width();
  shared.b1[i] = used ? *p.b1.at<float>(i) : 0.0f;
  shared.b2[i] = used ? *p.b2.at<float>(i) : 0.0f;
  shared.W3[i] = used ? device::load_any(p.W3, i * p.W3.stride[1]) : 0.0f;
}

// Eight neighbouring features of a query.
template <class T>
__device__ FeatureWords<T> read_query(const Inputs& p, const SequenceTiles::Tile& tile,
                                      int64_t head, int64_t t, int feature, bool vectors) {
  FeatureWords<T> words;
  words.load(p.q.at<T>(tile.range.row, tile.range.begin + t, head), p.q.stride[3], feature,
             static_cast<int>(p.features), vectors);
  return words;
}

// Sums of the queries before the tile, a warp's share. Few of them meet in fp32, then fp64.
template <class T>
__device__ void add_before(const Inputs& p, const SequenceTiles::Tile& tile, int64_t head,
                           bool vectors, double (&sums)[kFeatureBlock]) {
  constexpr int kTogether = 4, kTokens = kQueryThreads / kQueryLanes;
  const int lane = threadIdx.x % kWarp, feature = lane % kQueryLanes * kLaneFeatures;
  double sum[kLaneFeatures] = {};
  for (int64_t first = 0; first < tile.begin; first += kTogether * kTokens) {
    FeatureWords<T> words[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int64_t t = first + i * kTokens + threadIdx.x / kQueryLanes;
      if (t < tile.begin) words[i] = read_query<T>(p, tile, head, t, feature, vectors);
    }
#pragma unroll
    for (int n = 0; n < kLaneFeatures; ++n) {
      float few = 0.0f;
#pragma unroll
      for (int i = 0; i < kTogether; ++i) few += words[i][n];
      sum[n] += few;
    }
  }
#pragma unroll
  for (int n = 0; n < kLaneFeatures; ++n) {
#pragma unroll
    for (int distance = kQueryLanes; distance < kWarp; distance *= 2) {
      sum[n] += __shfl_xor_sync(0xffffffffu, sum[n], distance);
    }
    if (lane < kQueryLanes) sums[feature + n] = sum[n];
  }
}

// Running sums over the tile at a warp's 16 tokens, laid out as a product's result.
template <class T>
__device__ void running_sums(float (&sums)[kFeatureBlock / 8][4], const T* queries, int warp,
                             int lane) {
  constexpr uint32_t kOne = type_of<T> == Type::bf16 ? 0x3f80 : 0x3c00;
  const uint32_t ones[4] = {kOne * 0x10001, kOne * 0x10001, kOne * 0x10001, kOne * 0x10001};
  // Ones up to the diagonal, of columns 2 c and 2 c + 1 in row r of an 8 x 8 block.
  const int row = lane / 4, column = lane % 4 * 2;
  const uint32_t corner = (column <= row ? kOne : 0) | (column + 1 <= row ? kOne << 16 : 0);
  const uint32_t triangle[4] = {corner, ones[0], 0, corner};
  const T* from = queries + lane % 16 * kShortRow + lane / 16 * 8;
  const auto add = [&](const uint32_t(&a)[4], int group) {
#pragma unroll
    for (int n = 0; n < kFeatureBlock / 8; n += 2) {
      uint32_t b[4];
      device::load_matrix_x4_transposed(b, from + group * 16 * kShortRow + n * 8);
      device::mma_16x8x16<T>(sums[n], a, {b[0], b[1]});
      device::mma_16x8x16<T>(sums[n + 1], a, {b[2], b[3]});
    }
  };
  for (int group = 0; group < warp; ++group) add(ones, group);
  add(triangle, warp);
  float zero = 0.0f;
#pragma unroll
  for (int n = 0; n < kFeatureBlock / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) zero = fmaf(sums[n][e], 0.0f, zero);
  }
  if (!__any_sync(0xffffffffu, zero != 0.0f)) return;
    // What isn't finite must not reach the tokens before it.
#pragma unroll
  for (int n = 0; n < kFeatureBlock / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float sum = 0.0f;
      for (int t = 0; t <= warp * 16 + row + e / 2 * 8; ++t) {
        sum += device::to_float(queries[t * kShortRow + n * 8 + column + e % 2]);
      }
      sums[n][e] = sum;
    }
  }
}

// 1 / max(norm, 1e-12) of the rows r and r + 8 of a result.
__device__ inline void inverse_norms(float (&inverse)[2],
                                     const float (&rows)[kFeatureBlock / 8][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float squares = 0.0f;
#pragma unroll
    for (int n = 0; n < kFeatureBlock / 8; ++n) {
      squares = fmaf(rows[n][2 * half], rows[n][2 * half], squares);
      squares = fmaf(rows[n][2 * half + 1], rows[n][2 * half + 1], squares);
    }
    squares = device::warp_sum<4>(squares);
    inverse[half] = rsqrtf(squares);
    if (!__any_sync(0xffffffffu, !(squares > 1e-20f && squares < 1e30f))) continue;
    double exact = 0.0;
#pragma unroll
    for (int n = 0; n < kFeatureBlock / 8; ++n) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        exact += static_cast<double>(rows[n][e]) * rows[n][e];
      }
    }
    exact += __shfl_xor_sync(0xffffffffu, exact, 1);
    exact += __shfl_xor_sync(0xffffffffu, exact, 2);
    inverse[half] = static_cast<float>(RunningSum::scale(exact));
  }
}

// A block for every (slot of a tile, head), a warp for every 16 of its tokens.
template <class T>
__global__ void __launch_bounds__(kQueryThreads, 2)
    short_kernel(const __grid_constant__ ForwardParams p, bool vectors, bool weight_pairs) {
  __shared__ ShortMemory<T> shared;
  const SequenceTiles::Tile tile = p.cuda_tiles().at(blockIdx.x / p.heads);
  const int64_t head = blockIdx.x % p.heads;
  if (tile.begin >= tile.end || tile.range.length > kCudaShortTokens) return;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int features = static_cast<int>(p.features), feature = lane % 4 * kLaneFeatures;
  const int count = static_cast<int>(tile.end - tile.begin), row = warp * 16 + lane / 4;
  FeatureWords<T> keys[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int token = row + 8 * half;
    const T* from =
        p.k.at<T>(tile.range.row, tile.range.begin + tile.begin + min(token, count - 1), head);
    keys[half].load(from, p.k.stride[3], feature, token < count ? features : 0, vectors);
  }
  for (int i = threadIdx.x; i < kCudaTileTokens * kQueryLanes; i += kQueryThreads) {
    const int token = i / kQueryLanes, first = i % kQueryLanes * kLaneFeatures;
    FeatureWords<T> words;
    if (token < count) words = read_query<T>(p, tile, head, tile.begin + token, first, vectors);
    *reinterpret_cast<uint4*>(shared.queries + token * kShortRow + first) = {
        words.word[0], words.word[1], words.word[2], words.word[3]};
  }
  add_before<T>(p, tile, head, vectors, shared.sums[warp]);
  pack_short(p, weight_pairs, shared);
  __syncthreads();
  if (threadIdx.x < kFeatureBlock) {
    double sum = 0.0;
    for (int w = 0; w < kForwardWarps; ++w) sum += shared.sums[w][threadIdx.x];
    const auto high = static_cast<float>(sum);
    shared.high[threadIdx.x] = high;
    shared.low[threadIdx.x] = static_cast<float>(sum - high);
  }
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
  float query[kFeatureBlock / 8][4] = {};
  running_sums(query, shared.queries, warp, lane);
#pragma unroll
  for (int n = 0; n < kFeatureBlock / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int column = n * 8 + lane % 4 * 2 + e % 2;
      query[n][e] = shared.high[column] + (shared.low[column] + query[n][e]);
    }
  }
  float inverse[2];
  inverse_norms(inverse, query);
#pragma unroll
  for (int n = 0; n < kFeatureBlock / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) query[n][e] *= inverse[e / 2];
  }
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
