// Statistics of whole sequences and codes at one go, for sequences that a block reads twice without
// leaving the cache.
#pragma once

#include "device/early_start.cuh"
#include "hash/lsh_hash/lsh_hash_kernel_project.cuh"

namespace hax::lsh_hash {

inline constexpr int kShortWarps = 16;
inline constexpr int kShortThreads = kShortWarps * kWarp;

// Mean, what it lacks and scale of each feature of a head of a sequence, by all threads: a thread
// takes 8 features of every so many tokens. shared: a warp's sums of all features; norms: (3,
// norm_row()).
template <class T>
__device__ void sequence_norms(const TokenReader<T>& reader, int64_t length, Sums* shared,
                               float* norms) {
  const int features = static_cast<int>(reader.p.features);
  int lanes = 1;  // that share a token
  while (lanes * kLaneFeatures < features) lanes *= 2;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int first = lane % lanes * kLaneFeatures, step = kShortThreads / lanes;
  FeatureWords<T> origin;
  reader.fetch(origin, reader.token(0, 0), first, true);
  Sums sums[kLaneFeatures];
#pragma unroll 4
  for (int64_t t = threadIdx.x / lanes; t < length; t += step) {
    FeatureWords<T> words;
    reader.fetch(words, reader.token(t, 0), first, true);
#pragma unroll
    for (int i = 0; i < kLaneFeatures; ++i) {
      sums[i].add(words[i] - origin[i]);  // rounded by 2^-24 of itself at most
    }
  }
#pragma unroll
  for (int i = 0; i < kLaneFeatures; ++i) {
    for (int distance = kWarp / 2; distance >= lanes; distance /= 2) {
      const Sums other = {__shfl_xor_sync(0xffffffffu, sums[i].first, distance),
                          __shfl_xor_sync(0xffffffffu, sums[i].second, distance)};
      sums[i] += other;
    }
    if (lane < lanes) shared[warp * lanes * kLaneFeatures + first + i] = sums[i];
  }
  __syncthreads();
  const double inverse = 1.0 / static_cast<double>(length);
  const int row = norm_row(features);
  for (int n = threadIdx.x; n < row; n += kShortThreads) {
    double mean = 0.0;
    float rounded = 0.0f, scale = 0.0f;
    if (n < features) {
      Sums total;
      for (int w = 0; w < kShortWarps; ++w) total += shared[w * lanes * kLaneFeatures + n];
      const Sequences::Range& range = reader.tile.range;
      mean = FeatureColumn<T>(reader.p, range, reader.head, n)[0] + total.first * inverse;
      rounded = static_cast<float>(mean);
      scale = static_cast<float>(total.scale(inverse));
    }
    norms[n] = rounded;
    norms[row + n] = static_cast<float>(mean - rounded);
    norms[2 * row + n] = scale;
  }
  __syncthreads();
}

// Bytes of the warps' sums.
inline int64_t sum_bytes(int64_t features) {
  int64_t lanes = 1;
  while (lanes * kLaneFeatures < features) lanes *= 2;
  return kShortWarps * lanes * kLaneFeatures * static_cast<int64_t>(sizeof(Sums));
}

// One or two inputs that share R and shapes, all but the number of heads. `parts` blocks take each
// head of a sequence.
struct ShortInputs {
  Params of[2];
  int64_t rows[2];  // sequences times heads
  int parts;
};

// Each block computes all statistics and projects a part of the tokens. norms_at: bytes of shared
// memory that sums and later R take.
template <class T, int Columns>
__global__ void __launch_bounds__(kShortThreads)
    short_kernel(const __grid_constant__ ShortInputs inputs, bool vectors, int64_t norms_at) {
  extern __shared__ uint4 memory[];
  device::wait_for_previous();
  device::start_next();
  int64_t row = blockIdx.x / inputs.parts;
  const int64_t part = blockIdx.x % inputs.parts;
  const bool second = row >= inputs.rows[0];
  if (second) row -= inputs.rows[0];
  const Params& p = inputs.of[second];
  const int64_t s = row / p.heads, head = row % p.heads;
  const Sequences::Range range = p.sequences.range(s);
  const int64_t each = round_up(ceil_div(range.length, inputs.parts), kRows);
  const int64_t begin = part * each, end = min(begin + each, range.length);
  if (begin >= end || range.length > kCudaShortTokens) return;
  uint2* R = reinterpret_cast<uint2*>(memory);
  float* norms = reinterpret_cast<float*>(reinterpret_cast<char*>(memory) + norms_at);
  TokenReader<T> reader{p, {s, range, 0, range.length}, head, vectors, nullptr, nullptr, 0, 0};
  sequence_norms(reader, range.length, reinterpret_cast<Sums*>(memory), norms);
  reader.norms = norms;
  for (int panel = 0; panel * kPanelBits < p.bits; ++panel) {
    __syncthreads();
    load_projection<Columns, kShortWarps>(p, panel, R);
    __syncthreads();
    project_tokens<T, Columns, 3, kShortWarps>(reader, R, begin, end, 1, panel);
  }
}

}  // namespace hax::lsh_hash
