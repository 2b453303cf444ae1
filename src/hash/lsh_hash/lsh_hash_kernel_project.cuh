// Centres, scales and projects tokens, and packs the signs into codes.
#pragma once

#include "device/warp.cuh"
#include "hash/feature_tile.cuh"
#include "hash/lsh_hash/lsh_hash_kernel_sums.cuh"

namespace hax::lsh_hash {

using device::kWarp;

inline constexpr int kProjectWarps = 8;
inline constexpr int kProjectThreads = kProjectWarps * kWarp;
inline constexpr int kRows = 16;       // tokens that a warp projects at a time
inline constexpr int kPanelBits = 32;  // bits projected at a time: one half of a code
inline constexpr int kRPieces = 3;

// Tokens that causal statistics are applied to at a time, so that they fit into shared memory.
__host__ __device__ inline int causal_tokens(int64_t features) { return features > 128 ? 32 : 128; }
__host__ __device__ inline int causal_row(int64_t features) {
  return static_cast<int>(round_up(features, kFeatureBlock)) + 4;
}
inline int feature_steps(int64_t features) {
  return static_cast<int>(ceil_div(features, kFeatureBlock)) * 2;
}

// R of a panel of 8 Columns bits in operands' order: (steps, Columns, pieces, lanes).
template <int Columns>
__device__ void load_projection(const Params& p, int panel, uint2* to) {
  const int steps = static_cast<int>(ceil_div(p.features, kFeatureBlock)) * 2;
  const int lane = threadIdx.x % kWarp;
  for (int i = threadIdx.x / kWarp; i < steps * Columns; i += kProjectWarps) {
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

// The tokens of a tile as the projection sees them.
template <class T>
struct TokenReader {
  const T* x;
  int64_t token_stride, stride;
  int features;
  bool vectors;
  const float* norms;  // (3, features) in shared memory; null: not centred
  const float* rows;   // causal: tokens centred and scaled, from `first` on
  int64_t first;
  int row;

  __device__ void normalize(float (&to)[kLaneFeatures], int feature) const {
#pragma unroll
    for (int i = 0; i < kLaneFeatures; ++i) {
      const int n = min(feature + i, features - 1);
      to[i] = (to[i] - norms[n] - norms[features + n]) * norms[2 * features + n];
    }
  }
  __device__ void read(float (&to)[kLaneFeatures], int64_t t, int feature) const {
    if (rows) {
#pragma unroll
      for (int i = 0; i < kLaneFeatures; ++i) to[i] = rows[(t - first) * row + feature + i];
      return;
    }
    load_features(to, x + t * token_stride, stride, feature, features, vectors);
    if (norms) normalize(to, feature);
  }
  // One feature.
  __device__ float at(int64_t t, int n) const {
    if (rows) return rows[(t - first) * row + n];
    const float value = device::to_float(x[t * token_stride + n * stride]);
    return norms ? (value - norms[n] - norms[features + n]) * norms[2 * features + n] : value;
  }
};

// Bits of one token and panel as IEEE arithmetic gives them where a number is not finite.
template <class T>
__device__ uint32_t scalar_code(const Params& p, const TokenReader<T>& reader, int64_t t,
                                int panel) {
  uint32_t code = 0;
  for (int64_t bit = panel * kPanelBits; bit < min(p.bits, int64_t{panel + 1} * kPanelBits);
       ++bit) {
    float sum = 0.0f;
    for (int n = 0; n < reader.features; ++n) {
      sum = fmaf(reader.at(t, n), *p.R.at<float>(n, bit), sum);
    }
    code |= static_cast<uint32_t>(sum > 0.0f) << (bit % kPanelBits);
  }
  return code;
}

// Half a code each of tokens t ... t + 15 of a tile that ends at `end`.
template <class T, int Columns, int Pieces>
__device__ void project_rows(const Params& p, const TokenReader<T>& reader, const uint2* R,
                             const SequenceTiles::Tile& tile, int64_t head, int64_t t, int64_t end,
                             int panel) {
  const int lane = threadIdx.x % kWarp;
  const int64_t upper = t + lane / 4, lower = upper + 8;
  float high[Columns][4] = {}, low[Columns][4] = {};
  for (int first = 0; first < reader.features; first += kFeatureBlock) {
    float x[2][kLaneFeatures] = {};
    const int feature = first + lane % 4 * kLaneFeatures;
    if (upper < end) reader.read(x[0], upper, feature);
    if (lower < end) reader.read(x[1], lower, feature);
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t a[Pieces][4];
      feature_fragment(a, x[0], x[1], step);
      const uint2* operands = R + (first / kFeatureBlock * 2 + step) * Columns * kRPieces * kWarp;
#pragma unroll
      for (int column = 0; column < Columns; ++column) {
        uint32_t b[kRPieces][2];
#pragma unroll
        for (int piece = 0; piece < kRPieces; ++piece) {
          const uint2 pair = operands[(column * kRPieces + piece) * kWarp + lane];
          b[piece][0] = pair.x;
          b[piece][1] = pair.y;
        }
        device::mma_pieces(high[column], low[column], a, b);
      }
    }
  }
  uint32_t code[2] = {0, 0};
  bool finite = true;
#pragma unroll
  for (int column = 0; column < Columns; ++column) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float sum = high[column][i] + low[column][i];
      finite &= sum - sum == 0.0f;
      code[i / 2] |= static_cast<uint32_t>(sum > 0.0f) << (column * 8 + lane % 4 * 2 + i % 2);
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    code[i] |= __shfl_xor_sync(0xffffffffu, code[i], 1);
    code[i] |= __shfl_xor_sync(0xffffffffu, code[i], 2);
  }
  const bool whole = __all_sync(0xffffffffu, finite);
  if (lane % 4 > 1) return;
  const int64_t token = lane % 4 == 0 ? upper : lower;
  if (token >= end) return;
  const uint32_t bits = !whole          ? scalar_code(p, reader, token, panel)
                        : lane % 4 == 0 ? code[0]
                                        : code[1];
  int64_t* to = p.code.at<int64_t>(tile.range.row, head, tile.range.begin + token);
  if (p.bits <= kPanelBits) {
    *to = bits;
  } else {
    reinterpret_cast<uint32_t*>(to)[panel] = bits;
  }
}

// Tokens [begin, end) of a tile, at most causal_tokens() of them, centred and scaled by all tokens up to their
// own, into rows of shared memory. `before`: sums over the tokens before `begin`, which become those before
// `end`.
template <class T>
__device__ void normalize_causally(const Params& p, const SequenceTiles::Tile& tile, int64_t head,
                                   int64_t begin, int64_t end, Sums& before, float* rows, int row,
                                   Sums* shared) {
  const FeatureLanes lanes(p.features, kProjectThreads);
  const FeatureLanes::Stretch mine = lanes.stretch(begin, end);
  const bool used = lanes.feature < p.features;
  const FeatureColumn<T> x(p, tile.range, head, used ? lanes.feature : 0);
  const double origin = x[0];
  Sums sums;
  for (int64_t t = mine.begin; used && t < mine.end; ++t) sums.add(x[t] - origin);
  const Sums total = scan_groups(sums, lanes, shared);
  sums.add(before);
  for (int64_t t = mine.begin; used && t < mine.end; ++t) {
    const double difference = x[t] - origin;
    const double inverse = 1.0 / static_cast<double>(t + 1);
    sums.add(difference);
    rows[(t - begin) * row + lanes.feature] =
        static_cast<float>((difference - sums.first * inverse) * sums.scale(inverse));
  }
  before.add(total);
}

// A block for every (slot of a tile, head).
template <class T, int Columns, bool Plain>
__global__ void __launch_bounds__(kProjectThreads)
    project_kernel(const __grid_constant__ Params p, const __grid_constant__ CudaPlan plan,
                   bool vectors) {
  constexpr int kPieces = Plain ? kExactPieces<T> : 3;
  extern __shared__ uint4 memory[];
  __shared__ Sums shared[Plain ? 1 : kProjectThreads];
  uint2* R = reinterpret_cast<uint2*>(memory);
  const int64_t head = blockIdx.x % p.heads;
  const SequenceTiles::Tile tile = p.cuda_tiles().at(blockIdx.x / p.heads);
  if (tile.begin >= tile.end) return;
  const int warp = threadIdx.x / kWarp;
  const int features = static_cast<int>(p.features);
  const int steps = static_cast<int>(ceil_div(p.features, kFeatureBlock)) * 2;
  float* rest = reinterpret_cast<float*>(R + steps * Columns * kRPieces * kWarp);
  TokenReader<T> reader{p.x.at<T>(tile.range.row, tile.range.begin, head),
                        p.x.stride[1],
                        p.x.stride[3],
                        features,
                        vectors,
                        nullptr,
                        nullptr,
                        0,
                        causal_row(p.features)};
  for (int panel = 0; panel * kPanelBits < p.bits; ++panel) {
    __syncthreads();
    load_projection<Columns>(p, panel, R);
    if (Plain || p.statistics == HAX_LSH_STATISTICS_SEQUENCE) {
      if constexpr (!Plain) {
        const float* norms = plan.norms + (tile.sequence * p.heads + head) * 3 * p.features;
        for (int i = threadIdx.x; i < 3 * features; i += kProjectThreads) rest[i] = norms[i];
        reader.norms = rest;
      }
      __syncthreads();
      for (int64_t t = tile.begin + warp * kRows; t < tile.end; t += kProjectWarps * kRows) {
        project_rows<T, Columns, kPieces>(p, reader, R, tile, head, t, tile.end, panel);
      }
      continue;
    }
    if constexpr (!Plain) {
      const int tokens = causal_tokens(p.features);
      const FeatureLanes lanes(p.features, kProjectThreads);
      Sums before;
      if (lanes.feature < features) {
        before =
            load_sums(plan.sums + int64_t{blockIdx.x} * 2 * features + lanes.feature, features);
      }
      for (int i = threadIdx.x; i < tokens * reader.row; i += kProjectThreads) rest[i] = 0.0f;
      reader.rows = rest;
      for (int64_t first = tile.begin; first < tile.end; first += tokens) {
        const int64_t end = min(first + tokens, tile.end);
        __syncthreads();
        normalize_causally<T>(p, tile, head, first, end, before, rest, reader.row, shared);
        __syncthreads();
        reader.first = first;
        for (int64_t t = first + warp * kRows; t < end; t += kProjectWarps * kRows) {
          project_rows<T, Columns, kPieces>(p, reader, R, tile, head, t, end, panel);
        }
      }
    }
  }
}

}  // namespace hax::lsh_hash
