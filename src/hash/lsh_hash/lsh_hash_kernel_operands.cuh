// Tokens and projection as operands of tensor cores, and codes from what comes out.
#pragma once

#include "device/warp.cuh"
#include "hash/feature_tile.cuh"
#include "hash/lsh_hash/lsh_hash_kernel_sums.cuh"

namespace hax::lsh_hash {

using device::kWarp;

inline constexpr int kProjectWarps = 8;
inline constexpr int kProjectThreads = kProjectWarps * kWarp;
inline constexpr int kRows = 16;                // tokens that a warp projects at a time
inline constexpr int64_t kProjectTokens = 128;  // of a block
inline constexpr int kHeadGroup = 8;            // heads of a block, at most
inline constexpr int kPanelBits = 32;           // bits projected at a time: one half of a code
inline constexpr int kRPieces = 3;

// Tokens that causal statistics are applied to at a time, so that they fit into shared memory.
__host__ __device__ inline int causal_tokens(int64_t features) { return features > 128 ? 32 : 128; }
__host__ __device__ inline int causal_row(int64_t features) {
  return static_cast<int>(round_up(features, kFeatureBlock)) + 4;
}
__host__ __device__ inline int head_groups(int64_t heads) {
  return static_cast<int>(ceil_div(heads, kHeadGroup));
}
// Distance of means, what they lack, and scales in shared memory, zeros beyond the last feature.
__host__ __device__ inline int norm_row(int64_t features) {
  return static_cast<int>(round_up(features, kFeatureBlock));
}
inline int feature_steps(int64_t features) {
  return static_cast<int>(ceil_div(features, kFeatureBlock)) * 2;
}

// R of a panel of 8 Columns bits in operands' order: (steps, Columns, pieces, lanes).
template <int Columns, int Warps = kProjectWarps>
__device__ void load_projection(const Params& p, int panel, uint2* to) {
  const int steps = static_cast<int>(ceil_div(p.features, kFeatureBlock)) * 2;
  const int lane = threadIdx.x % kWarp;
  for (int i = threadIdx.x / kWarp; i < steps * Columns; i += Warps) {
    const int first = fragment_feature(i / Columns, lane);
    const int64_t bit = panel * kPanelBits + i % Columns * 8 + lane / 4;
    float value[4];
#pragma unroll
    for (int f = 0; f < 4; ++f) {
      value[f] = first + f < p.features && bit < p.bits ? *p.R.at<float>(first + f, bit) : 0.0f;
    }
    uint32_t low[kRPieces], high[kRPieces];
    device::split_bf16(low, value[0], value[1]);
    device::split_bf16(high, value[2], value[3]);
#pragma unroll
    for (int piece = 0; piece < kRPieces; ++piece) {
      to[(i * kRPieces + piece) * kWarp + lane] = {low[piece], high[piece]};
    }
  }
}

// Tokens of a tile, of up to kHeadGroup heads, as the projection sees them.
template <class T>
struct TokenReader {
  const Params& p;
  SequenceTiles::Tile tile;
  int64_t head;  // the group's first
  bool vectors;
  const float* norms;  // (heads, 3, norm_row()) in shared memory; null: not centred
  const float* rows;   // causal: tokens of one head, centred and scaled, from `first` on
  int64_t first;
  int row;

  // Features of a token.
  __device__ const T* token(int64_t t, int h) const {
    return p.x.at<T>(tile.range.row, tile.range.begin + t, head + h);
  }
  // Eight of them, zeros where there are none.
  __device__ void fetch(FeatureWords<T>& words, const T* token, int feature, bool present) const {
    words.load(token, p.x.stride[3], feature, present ? static_cast<int>(p.features) : 0, vectors);
  }
  // Eight features from `first` on of two tokens of a head.
  __device__ void normalize(float (&x)[2][kLaneFeatures], int h, int first) const {
    const int row = norm_row(p.features);
    const float* own = norms + h * 3 * row + first;
#pragma unroll
    for (int i = 0; i < kLaneFeatures; i += 4) {
      const float4 mean = *reinterpret_cast<const float4*>(own + i);
      const float4 rest = *reinterpret_cast<const float4*>(own + row + i);
      const float4 scale = *reinterpret_cast<const float4*>(own + 2 * row + i);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float(&to)[kLaneFeatures] = x[half];
        to[i] = (to[i] - mean.x - rest.x) * scale.x;
        to[i + 1] = (to[i + 1] - mean.y - rest.y) * scale.y;
        to[i + 2] = (to[i + 2] - mean.z - rest.z) * scale.z;
        to[i + 3] = (to[i + 3] - mean.w - rest.w) * scale.w;
      }
    }
  }
  // One feature as it is projected.
  __device__ float at(int64_t t, int h, int n) const {
    if (rows) return rows[(t - first) * row + n];
    const float x = device::to_float(*p.x.at<T>(tile.range.row, tile.range.begin + t, head + h, n));
    if (!norms) return x;
    const int stride = norm_row(p.features);
    const float* own = norms + h * 3 * stride + n;
    return (x - own[0] - own[stride]) * own[2 * stride];
  }
};

// Bits of one token and panel as IEEE arithmetic gives them where a number is not finite.
template <class T>
__device__ uint32_t scalar_code(const TokenReader<T>& reader, int64_t t, int h, int panel) {
  const Params& p = reader.p;
  uint32_t code = 0;
  for (int64_t bit = panel * kPanelBits; bit < min(p.bits, int64_t{panel + 1} * kPanelBits);
       ++bit) {
    float sum = 0.0f;
    for (int n = 0; n < p.features; ++n) {
      sum = fmaf(reader.at(t, h, n), *p.R.at<float>(n, bit), sum);
    }
    code |= static_cast<uint32_t>(sum > 0.0f) << (bit % kPanelBits);
  }
  return code;
}

// Sums of 16 tokens of a head: lane 4 r + c holds those of tokens r and r + 8.
template <int Columns>
struct Projection {
  float high[Columns][4] = {}, low[Columns][4] = {};

  // f(step, a): the tokens' operands of step 0 or 1 of a block of features.
  template <int Pieces, class F>
  __device__ void add(const uint2* R, int block, F&& f) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t a[Pieces][4];
      f(step, a);
      const uint2* operands = R + (block * 2 + step) * Columns * kRPieces * kWarp + lane;
#pragma unroll
      for (int column = 0; column < Columns; ++column) {
        uint32_t b[kRPieces][2];
#pragma unroll
        for (int piece = 0; piece < kRPieces; ++piece) {
          const uint2 pair = operands[(column * kRPieces + piece) * kWarp];
          b[piece][0] = pair.x;
          b[piece][1] = pair.y;
        }
        device::mma_pieces(high[column], low[column], a, b);
      }
    }
  }

  // Writes half a code for each of tokens t ... t + 15.
  template <class T>
  __device__ void store(const TokenReader<T>& reader, int64_t t, int64_t end, int h, int panel) {
    const Params& p = reader.p;
    const int lane = threadIdx.x % kWarp;
    uint32_t code[2] = {0, 0};
    float all = 0.0f;  // finite only if every sum is
#pragma unroll
    for (int column = 0; column < Columns; ++column) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float sum = high[column][i] + low[column][i];
        all += sum;
        if (sum > 0.0f) code[i / 2] |= 1u << (column * 8 + i % 2);
        high[column][i] = low[column][i] = 0.0f;
      }
    }
    const bool finite = all - all == 0.0f;
    code[0] <<= lane % 4 * 2;
    code[1] <<= lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      code[i] |= __shfl_xor_sync(0xffffffffu, code[i], 1);
      code[i] |= __shfl_xor_sync(0xffffffffu, code[i], 2);
    }
    const bool whole = __all_sync(0xffffffffu, finite);
    if (lane % 4 > 1) return;
    const int64_t token = t + lane / 4 + lane % 4 * 8;
    if (token >= end) return;
    const uint32_t bits = !whole          ? scalar_code(reader, token, h, panel)
                          : lane % 4 == 0 ? code[0]
                                          : code[1];
    int64_t* to =
        p.code.at<int64_t>(reader.tile.range.row, reader.head + h, reader.tile.range.begin + token);
    if (p.bits <= kPanelBits) {
      *to = bits;
    } else {
      reinterpret_cast<uint32_t*>(to)[panel] = bits;
    }
  }
};

}  // namespace hax::lsh_hash
