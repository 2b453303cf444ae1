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

}  // namespace hax::device
