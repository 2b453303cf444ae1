// Centres, scales and projects tokens, and packs the signs into codes.
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

// Tokens of a tile, of up to kHeadGroup heads, as the projection sees them.
template <class T>
struct TokenReader {
  const Params& p;
  SequenceTiles::Tile tile;
  int64_t head;  // the group's first
  bool vectors;
  const float* norms;  // (heads, 3, features) in shared memory; null: not centred
  const float* rows;   // causal: tokens of one head, centred and scaled, from `first` on
  int64_t first;
  int row;

  // Eight features of a token, zeros where there are none.
  __device__ void fetch(FeatureWords<T>& words, int64_t t, int h, int feature, bool present) const {
    const int count = present ? static_cast<int>(p.features) : 0;
    words.load(p.x.at<T>(tile.range.row, tile.range.begin + t, head + h), p.x.stride[3], feature,
               count, vectors);
  }
  __device__ float normalize(float x, int h, int feature) const {
    const int features = static_cast<int>(p.features), n = min(feature, features - 1);
    const float* own = norms + h * 3 * features;
    return (x - own[n] - own[features + n]) * own[2 * features + n];
  }
  // One feature as it is projected.
  __device__ float at(int64_t t, int h, int n) const {
    if (rows) return rows[(t - first) * row + n];
    const float x = device::to_float(*p.x.at<T>(tile.range.row, tile.range.begin + t, head + h, n));
    return norms ? normalize(x, h, n) : x;
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
    bool finite = true;
#pragma unroll
    for (int column = 0; column < Columns; ++column) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float sum = high[column][i] + low[column][i];
        finite &= sum - sum == 0.0f;
        code[i / 2] |= static_cast<uint32_t>(sum > 0.0f) << (column * 8 + lane % 4 * 2 + i % 2);
        high[column][i] = low[column][i] = 0.0f;
      }
    }
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

// Projects tokens [begin, end) of `heads` heads straight from memory: warps take 16 tokens of a head at a time,
// neighbouring warps neighbouring heads, and fetch the next features while they project the last ones.
template <class T, int Columns, int Pieces>
__device__ void project_tokens(const TokenReader<T>& reader, const uint2* R, int64_t begin,
                               int64_t end, int heads, int panel) {
  constexpr int kBlocks = sizeof(T) == 2 ? 2 : 1;  // of features, at a time
  using Rows = FeatureWords<T>[kBlocks][2];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int features = static_cast<int>(reader.p.features);
  struct Place {
    int64_t t;
    int h, feature;
  };
  const auto advance = [&](Place& at) {
    at.feature += kBlocks * kFeatureBlock;
    if (at.feature < features) return;
    at.feature = 0;
    at.h += kProjectWarps % heads;
    at.t += kProjectWarps / heads * kRows;
    if (at.h < heads) return;
    at.h -= heads;
    at.t += kRows;
  };
  const auto fetch = [&](Rows& rows, const Place& at) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t t = at.t + lane / 4 + half * 8;
        reader.fetch(rows[block][half], t, at.h,
                     at.feature + block * kFeatureBlock + lane % 4 * kLaneFeatures, t < end);
      }
    }
  };
  Place at{begin + warp / heads * kRows, warp % heads, 0};
  if (at.t >= end) return;
  Rows rows;
  fetch(rows, at);
  Projection<Columns> sums;
  while (at.t < end) {
    const Place now = at;
    advance(at);
    Rows next;
    if (at.t < end) fetch(next, at);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const int feature = now.feature + block * kFeatureBlock;
      if (feature >= features) break;
      const auto& own = rows[block];
      sums.template add<Pieces>(R, feature / kFeatureBlock, [&](int step, uint32_t(&a)[Pieces][4]) {
        if constexpr (Pieces == 1) {  // bf16 as it is
#pragma unroll
          for (int i = 0; i < 4; ++i) a[0][i] = own[i % 2].word[2 * step + i / 2];
        } else {
          feature_fragment(a, step, [&](int half, int i) {
            const float x = own[half][i];
            return reader.norms ? reader.normalize(x, now.h, feature + lane % 4 * kLaneFeatures + i)
                                : x;
          });
        }
      });
    }
    if (at.feature == 0) sums.store(reader, now.t, end, now.h, panel);
    memcpy(&rows, &next, sizeof(rows));
  }
}

// Projects tokens [begin, end) of one head from rows in shared memory.
template <class T, int Columns>
__device__ void project_rows(const TokenReader<T>& reader, const uint2* R, int64_t begin,
                             int64_t end, int h, int panel) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int64_t t = begin + warp * kRows; t < end; t += kProjectWarps * kRows) {
    Projection<Columns> sums;
    for (int feature = 0; feature < reader.p.features; feature += kFeatureBlock) {
      const int first = feature + lane % 4 * kLaneFeatures;
      sums.template add<3>(R, feature / kFeatureBlock, [&](int step, uint32_t(&a)[3][4]) {
        feature_fragment(a, step, [&](int half, int i) {
          const int64_t token = min(t + lane / 4 + half * 8, end - 1);
          return reader.rows[(token - reader.first) * reader.row + first + i];
        });
      });
    }
    sums.store(reader, t, end, h, panel);
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
  sums += before;
  for (int64_t t = mine.begin; used && t < mine.end; ++t) {
    const double difference = x[t] - origin;
    const double inverse = 1.0 / static_cast<double>(t + 1);
    sums.add(difference);
    rows[(t - begin) * row + lanes.feature] =
        static_cast<float>((difference - sums.first * inverse) * sums.scale(inverse));
  }
  before += total;
}

// Sum of a feature of the tokens [begin, end), by all threads.
template <class T>
__device__ Sums sums_between(const Params& p, const SequenceTiles::Tile& tile, int64_t head,
                             int64_t begin, int64_t end, Sums* shared) {
  const FeatureLanes lanes(p.features, kProjectThreads);
  const bool used = lanes.feature < p.features;
  const FeatureLanes::Stretch mine = lanes.stretch(begin, used ? end : begin);
  const FeatureColumn<T> x(p, tile.range, head, used ? lanes.feature : 0);
  const double origin = x[0];
  Sums sums;
#pragma unroll 8
  for (int64_t t = mine.begin; t < mine.end; ++t) sums.add(x[t] - origin);
  return scan_groups(sums, lanes, shared);
}

// Blocks for every (slot of a tile, group of heads, part of the tile).
template <class T, int Columns, bool Plain>
__global__ void __launch_bounds__(kProjectThreads, Plain&& Columns == 2 ? 3 : 2)
    project_kernel(const __grid_constant__ Params p, const __grid_constant__ CudaPlan plan,
                   bool vectors) {
  constexpr int kPieces = Plain ? kExactPieces<T> : 3;
  constexpr int kParts = static_cast<int>(kCudaTileTokens / kProjectTokens);
  extern __shared__ uint4 memory[];
  __shared__ Sums shared[Plain ? 1 : kProjectThreads];
  uint2* R = reinterpret_cast<uint2*>(memory);
  const int features = static_cast<int>(p.features), groups = head_groups(p.heads);
  const int64_t part = blockIdx.x % kParts, group = blockIdx.x / kParts % groups;
  const int64_t slot = blockIdx.x / kParts / groups;
  const SequenceTiles::Tile tile = p.cuda_tiles().at(slot);
  const int64_t begin = tile.begin + part * kProjectTokens;
  const int64_t end = min(begin + kProjectTokens, tile.end);
  if (begin >= end) return;
  const int64_t head = group * kHeadGroup;
  const int heads = static_cast<int>(min(int64_t{kHeadGroup}, p.heads - head));
  const int steps = static_cast<int>(ceil_div(p.features, kFeatureBlock)) * 2;
  float* rest = reinterpret_cast<float*>(R + steps * Columns * kRPieces * kWarp);
  TokenReader<T> reader{p, tile, head, vectors, nullptr, nullptr, 0, causal_row(p.features)};
  for (int panel = 0; panel * kPanelBits < p.bits; ++panel) {
    __syncthreads();
    load_projection<Columns>(p, panel, R);
    if constexpr (Plain) {
      __syncthreads();
      project_tokens<T, Columns, kPieces>(reader, R, begin, end, heads, panel);
    } else if (p.statistics == HAX_LSH_STATISTICS_SEQUENCE) {
      const float* norms = plan.norms + (tile.sequence * p.heads + head) * 3 * features;
      for (int i = threadIdx.x; i < heads * 3 * features; i += kProjectThreads) rest[i] = norms[i];
      reader.norms = rest;
      __syncthreads();
      project_tokens<T, Columns, kPieces>(reader, R, begin, end, heads, panel);
    } else {
      const int tokens = causal_tokens(p.features);
      const FeatureLanes lanes(p.features, kProjectThreads);
      for (int i = threadIdx.x; i < tokens * reader.row; i += kProjectThreads) rest[i] = 0.0f;
      reader.rows = rest;
      for (int h = 0; h < heads; ++h) {
        __syncthreads();
        Sums before = sums_between<T>(p, tile, head + h, tile.begin, begin, shared);
        if (lanes.feature < features) {
          const double* sums = plan.sums + (slot * p.heads + head + h) * 2 * features;
          before += load_sums(sums + lanes.feature, features);
        }
        for (int64_t first = begin; first < end; first += tokens) {
          const int64_t last = min(first + tokens, end);
          __syncthreads();
          normalize_causally<T>(p, tile, head + h, first, last, before, rest, reader.row, shared);
          __syncthreads();
          reader.first = first;
          project_rows<T, Columns>(reader, R, first, last, h, panel);
        }
      }
    }
  }
}

}  // namespace hax::lsh_hash
