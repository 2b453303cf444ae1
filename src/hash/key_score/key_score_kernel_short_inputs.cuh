// What the kernels for 16-bit types with up to 32 features and sequences up to kCudaShortTokens long share: a block adds up
// the queries before its tile by itself, those in the tile by products with ones. The norm is each token's own.
#pragma once

#include "device/async_copy.cuh"
#include "hash/key_score/key_score_kernel_narrow.cuh"

namespace hax::key_score {

inline constexpr int kShortRow = kFeatureBlock + 8;  // elements; an odd number of 16 bytes
inline constexpr int kQueryLanes = kFeatureBlock / kLaneFeatures;  // that share a token

template <class T>
struct ShortQueries {
  T queries[kCudaTileTokens * kShortRow];
  double sums[kForwardWarps][kFeatureBlock];      // of queries before the tile
  float high[kFeatureBlock], low[kFeatureBlock];  // their sum in two parts
};

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

// The keys of a warp's 16 tokens: a lane has 8 features of rows r and r + 8.
template <class T>
__device__ void read_keys(FeatureWords<T> (&keys)[2], const Inputs& p,
                          const SequenceTiles::Tile& tile, int64_t head, bool vectors) {
  const int lane = threadIdx.x % kWarp, row = threadIdx.x / kWarp * 16 + lane / 4;
  const int count = static_cast<int>(tile.end - tile.begin),
            features = static_cast<int>(p.features);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int token = row + 8 * half;
    const T* from =
        p.k.at<T>(tile.range.row, tile.range.begin + tile.begin + min(token, count - 1), head);
    keys[half].load(from, p.k.stride[3], lane % 4 * kLaneFeatures, token < count ? features : 0,
                    vectors);
  }
}

// A tile's queries, and sums of those before it by warps.
template <class T>
__device__ void read_queries(const Inputs& p, const SequenceTiles::Tile& tile, int64_t head,
                             bool vectors, ShortQueries<T>& shared) {
  const int count = static_cast<int>(tile.end - tile.begin);
  for (int i = threadIdx.x; i < kCudaTileTokens * kQueryLanes; i += kQueryThreads) {
    const int token = i / kQueryLanes, first = i % kQueryLanes * kLaneFeatures;
    FeatureWords<T> words;
    if (token < count) words = read_query<T>(p, tile, head, tile.begin + token, first, vectors);
    *reinterpret_cast<uint4*>(shared.queries + token * kShortRow + first) = {
        words.word[0], words.word[1], words.word[2], words.word[3]};
  }
  add_before<T>(p, tile, head, vectors, shared.sums[threadIdx.x / kWarp]);
}

// The sum of the warps' sums.
template <class T>
__device__ void add_warps(ShortQueries<T>& shared) {
  if (threadIdx.x >= kFeatureBlock) return;
  double sum = 0.0;
  for (int w = 0; w < kForwardWarps; ++w) sum += shared.sums[w][threadIdx.x];
  const auto high = static_cast<float>(sum);
  shared.high[threadIdx.x] = high;
  shared.low[threadIdx.x] = static_cast<float>(sum - high);
}

// q' of a warp's 16 tokens, laid out as a product's result.
template <class T>
__device__ void scaled_queries(float (&query)[kFeatureBlock / 8][4],
                               const ShortQueries<T>& shared) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int n = 0; n < kFeatureBlock / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) query[n][e] = 0.0f;
  }
  running_sums(query, shared.queries, threadIdx.x / kWarp, lane);
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
}

}  // namespace hax::key_score
