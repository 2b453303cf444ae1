// Centres, scales and projects tokens, and packs the signs into codes.
#pragma once

#include "hash/lsh_hash/lsh_hash_kernel_operands.cuh"

namespace hax::lsh_hash {

// Projects tokens [begin, end) of `heads` heads straight from memory: warps take 16 tokens of a
// head at a time, neighbouring warps neighbouring heads, and fetch the next features while they
// project the last ones.
template <class T, int Columns, int Pieces, int Warps = kProjectWarps>
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
    at.h += Warps % heads;
    at.t += Warps / heads * kRows;
    if (at.h < heads) return;
    at.h -= heads;
    at.t += kRows;
  };
  const auto fetch = [&](Rows& rows, const Place& at) {
    const int64_t upper = at.t + lane / 4;
    const T* token = reader.token(upper, at.h);
    const int feature = at.feature + lane % 4 * kLaneFeatures;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool present = upper + half * 8 < end;
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        reader.fetch(rows[block][half], token, feature + block * kFeatureBlock, present);
      }
      token += 8 * reader.p.x.stride[1];
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
      float x[2][kLaneFeatures];
      if constexpr (Pieces > 1) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int i = 0; i < kLaneFeatures; ++i) x[half][i] = own[half][i];
        }
        if (reader.norms) reader.normalize(x, now.h, feature + lane % 4 * kLaneFeatures);
      }
      sums.template add<Pieces>(R, feature / kFeatureBlock, [&](int step, uint32_t(&a)[Pieces][4]) {
        if constexpr (Pieces == 1) {  // bf16 as it is
#pragma unroll
          for (int i = 0; i < 4; ++i) a[0][i] = own[i % 2].word[2 * step + i / 2];
        } else {
          feature_fragment(a, step, [&](int half, int i) { return x[half][i]; });
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

// Tokens [begin, end) of a tile, at most causal_tokens() of them, centred and scaled by all tokens
// up to their own, into rows of shared memory. `before`: sums over the tokens before `begin`, which
// become those before `end`.
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

// Blocks for every (slot of a tile, group of heads, part of the tile), for sequences with statistics.
template <class T, int Columns>
__global__ void __launch_bounds__(kProjectThreads, 2)
    project_kernel(const __grid_constant__ Params p, const __grid_constant__ CudaPlan plan,
                   bool vectors) {
  constexpr int kParts = static_cast<int>(kCudaTileTokens / kProjectTokens);
  extern __shared__ uint4 memory[];
  __shared__ Sums shared[kProjectThreads];
  uint2* R = reinterpret_cast<uint2*>(memory);
  const int features = static_cast<int>(p.features), groups = head_groups(p.heads);
  const int64_t part = blockIdx.x % kParts, group = blockIdx.x / kParts % groups;
  const int64_t slot = blockIdx.x / kParts / groups;
  const SequenceTiles::Tile tile = p.cuda_tiles().at(slot);
  const int64_t begin = tile.begin + part * kProjectTokens;
  const int64_t end = min(begin + kProjectTokens, tile.end);
  if (begin >= end || p.handled_short(tile.range.length)) return;
  const int64_t head = group * kHeadGroup;
  const int heads = static_cast<int>(min(int64_t{kHeadGroup}, p.heads - head));
  const int steps = static_cast<int>(ceil_div(p.features, kFeatureBlock)) * 2;
  float* rest = reinterpret_cast<float*>(R + steps * Columns * kRPieces * kWarp);
  TokenReader<T> reader{p, tile, head, vectors, nullptr, nullptr, 0, causal_row(p.features)};
  for (int panel = 0; panel * kPanelBits < p.bits; ++panel) {
    __syncthreads();
    load_projection<Columns>(p, panel, R);
    if (p.statistics == HAX_LSH_STATISTICS_SEQUENCE) {
      const float* norms = plan.norms + (tile.sequence * p.heads + head) * 3 * features;
      const int row = norm_row(features);
      for (int i = threadIdx.x; i < heads * 3 * row; i += kProjectThreads) {
        rest[i] = i % row < features ? norms[i / row * features + i % row] : 0.0f;
      }
      reader.norms = rest;
      __syncthreads();
      project_tokens<T, Columns, 3>(reader, R, begin, end, heads, panel);
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
