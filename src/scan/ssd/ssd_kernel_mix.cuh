// How much the tokens of a sub-block take from those of an earlier one, from scores that are in registers.
#pragma once

#include "scan/ssd/ssd_kernel_chunk.cuh"

namespace hax::ssd {

template <class T>
__device__ void pack_operand(uint32_t (&operand)[4], const float (&values)[2][4]) {
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    operand[w] = device::pack_pair<T>(values[w / 2][w % 2 * 2], values[w / 2][w % 2 * 2 + 1]);
  }
}

// mix[t][s] = decay from s to t, times dt_s, times C_t . B_s, as a left operand: t in sub-block i, s in sub-block j < i;
// gap: the exponent of the sub-blocks between.
template <class T>
__device__ void weigh_scores(uint32_t (&mix)[4], const float (&scores)[2][4], const Decays& d,
                             int i, int j, float gap) {
  const int lane = threadIdx.x % device::kWarp;
  const int t = i * kBlock + lane / 4, s = j * kBlock + lane % 4 * 2;
  const float reach[2] = {device::exp2_approx(d.within[t] + gap),
                          device::exp2_approx(d.within[t + 8] + gap)};
  float values[2][4];
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    const float2 to_end = *reinterpret_cast<const float2*>(&d.to_end[s + 8 * q]);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      values[q][e] = scores[q][e] * reach[e / 2] * (e % 2 ? to_end.y : to_end.x);
    }
  }
  pack_operand<T>(mix, values);
}

// The same for s and t in sub-block i; `skip`, which is D, comes to the diagonal.
template <class T>
__device__ void weigh_own_scores(uint32_t (&mix)[4], const float (&scores)[2][4], const Decays& d,
                                 int i, float skip) {
  const int lane = threadIdx.x % device::kWarp, r = lane / 4, c = lane % 4, first = i * kBlock;
  const float within[2] = {d.within[first + r], d.within[first + r + 8]};
  float values[2][4];
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    const int s = 8 * q + 2 * c;
    const float2 dt = *reinterpret_cast<const float2*>(&d.dt[first + s]);
    const float2 other = *reinterpret_cast<const float2*>(&d.within[first + s]);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int ahead = r + e / 2 * 8 - (s + e % 2);
      const float exponent = within[e / 2] - (e % 2 ? other.y : other.x);
      const float decay = device::exp2_approx(exponent) * (e % 2 ? dt.y : dt.x);
      const float value = scores[q][e] * decay + (ahead == 0 ? skip : 0.0f);
      values[q][e] = ahead >= 0 ? value : 0.0f;
    }
  }
  pack_operand<T>(mix, values);
}

// x^T (a left operand: rows by 16 tokens) times its tokens' weights, rounded to T; or what the rounding left.
template <class T>
__device__ void weigh_inputs(uint32_t (&to)[4], const uint32_t (&x)[4], const float* weights,
                             bool rest) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 weight =
        *reinterpret_cast<const float2*>(weights + i / 2 * 8 + threadIdx.x % 4 * 2);
    float2 own = device::unpack_pair<T>(x[i]);
    own.x *= weight.x, own.y *= weight.y;
    to[i] = device::pack_pair<T>(own.x, own.y);
    if (rest) {
      const float2 rounded = device::unpack_pair<T>(to[i]);
      to[i] = device::pack_pair<T>(own.x - rounded.x, own.y - rounded.y);
    }
  }
}

}  // namespace hax::ssd
