// Elements of a tile where S::kPacked: a lane stages and finishes those whose sums tensor cores give it, tokens 2c
// and 2c + 1 of channels 2r and 2r + 1. So scales and sums stay in its registers. Element 2i + m is token 2c + i of
// channel 2r + m.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_backward_channels.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_fetch.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_scan.cuh"

namespace hax::selective_scan {

// Elements as they lie in memory: a word for each token.
struct RawElements {
  uint32_t u[2], delta[2], dy[2], z[2];
};

// A word, or 0 with nothing read where `valid` is false. Stays where it is written in the code, as registers for it
// are there only then.
__device__ inline uint32_t load_word_in_place(const void* from, bool valid) {
  uint32_t word;
  asm volatile(
      "{.reg .pred valid; setp.ne.u32 valid, %2, 0; mov.b32 %0, 0; @valid ld.global.nc.b32 %0, "
      "[%1];}"
      : "=r"(word)
      : "l"(from), "r"(static_cast<uint32_t>(valid)));
  return word;
}

// f(word's index, its address, whether it is within the tile) for a lane's words of tensor `which`.
template <class S, class F>
__device__ void for_words(const TileShared<S>& shared, int which, const Tile& tile, int channels,
                          const LanePlace& place, F&& f) {
  const auto stream = shared.streams[which];
  const int token = 2 * place.c;
  char* at = reinterpret_cast<char*>(stream.at(tile.first + token) + place.channel);
#pragma unroll
  for (int i = 0; i < 2; ++i, at += static_cast<int>(stream.step)) {
    f(i, at, place.channel < channels && token + i < tile.tokens);
  }
}

// Zeros for a tile without tokens. No branches: where they join, words still under way would be waited for.
template <class S>
__device__ void load_packed(RawElements& raw, const TileShared<S>& shared, const BackwardParams& p,
                            const Tile& tile, int channels, bool gradients) {
  const LanePlace place(1);
  const auto load = [&](uint32_t(&to)[2], int which, bool wanted) {
    for_words(shared, which, tile, channels, place, [&](int i, const void* from, bool valid) {
      to[i] = load_word_in_place(from, valid && wanted);
    });
  };
  load(raw.u, kU, true);
  load(raw.delta, kDelta, true);
  if (!gradients) return;
  load(raw.dy, kDy, true);
  load(raw.z, kZ, static_cast<bool>(p.z));
}

__device__ inline void unpack_elements(float (&to)[4], const uint32_t (&words)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float2 pair = device::unpack_pair<bf16>(words[i]);
    to[2 * i] = pair.x, to[2 * i + 1] = pair.y;
  }
}

// Fills shared.dt and the lane's scales. Then f(the lane's place, elements).
template <class S, class F>
__device__ void stage_packed(PackedScales& scales, TileShared<S>& shared, const BackwardParams& p,
                             const Tile& tile, const RawElements& raw, bool gradients, F&& f) {
  const LanePlace place(1);
  const int token = 2 * place.c;
  Elements e = {};
  float dt[4], dy[4], z[4];
  unpack_elements(e.u, raw.u);
  unpack_elements(dt, raw.delta);
  unpack_elements(dy, raw.dy);
  unpack_elements(z, raw.z);
  const float2 own = *reinterpret_cast<const float2*>(&shared.bias[place.channel]);
  const float bias[4] = {own.x, own.y, own.x, own.y};
  make_elements<S>(e, dt, dy, z, bias, p, gradients,
                   [&](int i) { return token + i / 2 < tile.tokens; });
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    *reinterpret_cast<float2*>(&shared.dt[S::place_of(token + i, place.channel)]) =
        make_float2(dt[2 * i], dt[2 * i + 1]);
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    scales[0][m] = device::pack_pair<bf16>(e.dtu[m], e.dtu[2 + m]);
    scales[1][m] = device::pack_pair<bf16>(e.g[m], e.g[2 + m]);
  }
  f(place, e);
}

// What staging leaves to finishing.
template <class S>
struct PackedStaged {
  PackedWeights<S> weights[2];  // the next tile's are written while others still read
  // Of each lane.
  uint2 u[S::kThreads];
  float4 of_y[S::kThreads], of_dt[S::kThreads];
  // Over its tiles: what D of its two channels receives, and delta_bias; what A does.
  float4 sums[S::kThreads];
  float4 dA[2][S::kThreads];

  __device__ void clear() {
    const unsigned thread = thread_index();
    sums[thread] = dA[0][thread] = dA[1][thread] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
  __device__ void add_dA(const float (&more)[8]) {
    const unsigned thread = thread_index();
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float4& to = dA[j][thread];
      to = make_float4(to.x + more[4 * j], to.y + more[4 * j + 1], to.z + more[4 * j + 2],
                       to.w + more[4 * j + 3]);
    }
  }
  __device__ void keep(const LanePlace& place, const RawElements& raw, const Elements& e,
                       const PackedScales& scales, int buffer) {
    u[place.thread] = make_uint2(raw.u[0], raw.u[1]);
    store_four(&of_y[place.thread], e.of_y);
    store_four(&of_dt[place.thread], e.of_dt);
    store_weights<S>(weights[buffer], scales, place);
  }
  // Of D (0) or delta_bias (1).
  __device__ float parameter_sum(int which, int channel, int) const {
    float sum = 0.0f;
    for (int c = 0; c < 4; ++c) {
      const float4& of_lane = sums[channel / 2 * 4 + c];
      sum += reinterpret_cast<const float*>(&of_lane)[2 * which + channel % 2];
    }
    return sum;
  }
};

template <class S>
__device__ void finish_packed(PackedStaged<S>& staged, const TileShared<S>& shared,
                              const BackwardParams& p, const Tile& tile, int channels,
                              const PackedProducts<S>& products, const PackedScales& scales) {
  const LanePlace place(1);
  const int token = 2 * place.c;
  const uint2 words = staged.u[place.thread];
  float u[4], of_y[4], of_dt[4];
  unpack_elements(u, {words.x, words.y});
  load_four(of_y, &staged.of_y[place.thread]);
  load_four(of_dt, &staged.of_dt[place.thread]);
  const float2 skip = *reinterpret_cast<const float2*>(&shared.skip[place.channel]);
  float sums[4];
  load_four(sums, &staged.sums[place.thread]);
  uint32_t du[2], ddelta[2], dz[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float2 dt =
        *reinterpret_cast<const float2*>(&shared.dt[S::place_of(token + i, place.channel)]);
    float values[3][2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int e = 2 * i + m;
      const float g = __uint_as_float(i ? scales[1][m] & 0xffff0000u : scales[1][m] << 16),
                  own_skip = m ? skip.y : skip.x;
      const float of_input = products.sum(0, m, i);
      values[0][m] = fmaf(m ? dt.y : dt.x, of_input, own_skip * g);
      values[1][m] = fmaf(u[e], of_input, device::kLn2 * products.sum(1, m, i)) * of_dt[e];
      values[2][m] = of_y[e] * fmaf(own_skip, u[e], products.sum(2, m, i));
      sums[m] = fmaf(g, u[e], sums[m]);
      sums[2 + m] += token + i < tile.tokens ? values[1][m] : 0.0f;
    }
    du[i] = device::pack_pair<bf16>(values[0][0], values[0][1]);
    ddelta[i] = device::pack_pair<bf16>(values[1][0], values[1][1]);
    dz[i] = device::pack_pair<bf16>(values[2][0], values[2][1]);
  }
  store_four(&staged.sums[place.thread], sums);
  const auto store = [&](const Tensor& tensor, int which, const uint32_t(&from)[2]) {
    if (!tensor) return;
    for_words(shared, which, tile, channels, place, [&](int i, char* to, bool valid) {
      if (valid) *reinterpret_cast<uint32_t*>(to) = from[i];
    });
  };
  store(p.du, kDu, du);
  store(p.ddelta, kDdelta, ddelta);
  store(p.dz, kDz, dz);
}

}  // namespace hax::selective_scan
