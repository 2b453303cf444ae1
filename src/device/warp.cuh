// Sums over the lanes of a warp, in an order that never changes.
#pragma once

namespace hax::device {

inline constexpr int kWarp = 32;

// Sum over groups of Width neighbouring lanes; every lane of a group receives it.
template <int Width = kWarp>
__device__ float warp_sum(float value) {
#pragma unroll
  for (int distance = Width / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

// Sums of Count values over groups of Width neighbouring lanes, Count <= Width: lane i of a group receives the
// sum of values[i % Count].
template <int Width, int Count>
__device__ float warp_sums(float (&values)[Count], int lane) {
  static_assert(Count <= Width);
#pragma unroll
  for (int half = Count / 2; half > 0; half /= 2) {
    const bool upper = lane & half;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float give = upper ? values[i] : values[i + half];
      const float keep = upper ? values[i + half] : values[i];
      values[i] = keep + __shfl_xor_sync(0xffffffffu, give, half);
    }
  }
#pragma unroll
  for (int distance = Count; distance < Width; distance *= 2) {
    values[0] += __shfl_xor_sync(0xffffffffu, values[0], distance);
  }
  return values[0];
}

}  // namespace hax::device
