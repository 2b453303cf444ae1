// The channels that a block adds carried states to, and how long each of these counts.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_forward_warp.cuh"

namespace hax::selective_scan {

template <class T>
struct CarriedShape {
  static constexpr int kStates = 16, kGroups = kStates / 4;
  static constexpr int kChannels = 32 / static_cast<int>(sizeof(T));  // of a block
  static constexpr int kWalkers = 4;  // warps, which share out a segment's walks
  static constexpr int kThreads = kWalkers * device::kWarp;
  // What is left of a state when it no longer counts, beside the largest of its channel.
  static constexpr float kUncounted = sizeof(T) == 4             ? 0x1p-22f
                                      : type_of<T> == Type::fp16 ? 0x1p-14f
                                                                 : 0x1p-11f;
};

// What a block has of its channels.
template <class T>
struct CarriedChannels {
  using S = CarriedShape<T>;
  alignas(16) float rate[S::kChannels][S::kStates];
  alignas(16) float h[S::kChannels][S::kStates];
  // Steps' sum from which on none of four states counts.
  alignas(16) float until[S::kChannels][S::kGroups];
  float bias[S::kChannels];

  __device__ void load(const ForwardParams& p, const ForwardLayout& layout,
                       const BlockChannels& block, int64_t place) {
    for (int i = threadIdx.x; i < S::kChannels * S::kStates; i += S::kThreads) {
      const int c = i / S::kStates, n = i % S::kStates;
      const bool used = c < block.count;
      const int64_t channel = block.first + (used ? c : 0);
      const float from = used ? *layout.carried.at<float>(place, channel, n) : 0.0f;
      float most = fabsf(from), most_made = fabsf(*layout.made.at<float>(place, channel, n));
#pragma unroll
      for (int distance = 1; distance < S::kStates; distance *= 2) {
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, distance));
        most_made = fmaxf(most_made, __shfl_xor_sync(0xffffffffu, most_made, distance));
      }
      h[c][n] = from;
      // What is 0 stays so, whatever it is multiplied with.
      const float r = from == 0.0f ? 0.0f : *p.A.at<float>(channel, n) * device::kLog2E;
      rate[c][n] = r;
      float end = counts_until(from, r, S::kUncounted * fminf(most, most_made));
      end = fmaxf(end, __shfl_xor_sync(0xffffffffu, end, 1));
      end = fmaxf(end, __shfl_xor_sync(0xffffffffu, end, 2));
      if (n % 4 == 0) until[c][n / 4] = end;
      if (n == 0) bias[c] = p.delta_bias ? *p.delta_bias.at<float>(channel) : 0.0f;
    }
  }
  // Whether any state of a channel counts after steps of so much.
  __device__ bool counts(int c, float elapsed) const {
    const float4 ends = *reinterpret_cast<const float4*>(until[c]);
    return elapsed < fmaxf(fmaxf(ends.x, ends.y), fmaxf(ends.z, ends.w));
  }

 private:
  __device__ static float counts_until(float h, float rate, float least) {
    if (h == 0.0f) return -INFINITY;
    if (!(rate < 0.0f)) return INFINITY;
    const float end = (log2f(fmaxf(least, 0x1p-126f)) - log2f(fabsf(h))) / rate;
    return end == end ? end : INFINITY;  // NaN always counts
  }
};

}  // namespace hax::selective_scan
