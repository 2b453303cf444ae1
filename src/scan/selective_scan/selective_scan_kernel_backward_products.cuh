// The products of a tile's states with B, C and each other's channels: on tensor cores for 16-bit
// activations, whose B and C are exact in tf32, with the other operands rounded or cut off to it; in fp32
// arithmetic for fp32 ones. What they are handed and give lies as selective_scan_kernel_backward_tile.cuh says.
#pragma once

#include "device/mma.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_tile.cuh"

namespace hax::selective_scan {

// Sums over states: tokens 2c and 2c + 1 of channel r, then of channel r + 8.
using ChannelSums = float[4];
inline constexpr int kSumStride = 10;  // of a channel's tokens in shared memory
inline constexpr int kShareStride = 20;

__device__ inline void store_sums(float (*to)[kSumStride], const ChannelSums& sums,
                                  const LanePlace& place, int tokens) {
  if (2 * place.c >= tokens) return;
  *reinterpret_cast<float2*>(&to[place.r][2 * place.c]) = make_float2(sums[0], sums[1]);
  *reinterpret_cast<float2*>(&to[place.r + 8][2 * place.c]) = make_float2(sums[2], sums[3]);
}

template <class S>
class TensorProducts {
 public:
  // Sums over channels: tokens 2c and 2c + 1 of state r, then of state r + 8.
  using StateSums = float[4];

  __device__ explicit TensorProducts(const LanePlace& place) : place_(place) {
    const uint32_t one = __float_as_uint(1.0f);
    unit_[0] = place.r == 2 * place.c ? one : 0;
    unit_[1] = place.r == 2 * place.c + 1 ? one : 0;
  }

  // A tile's rows of B or C; C may be left out where only states are wanted.
  __device__ void load_outer(uint32_t (&to)[S::kTile / 4][2], const StateRows<S>& rows) const {
#pragma unroll
    for (int i = 0; i < S::kTile / 4; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        to[i][j] = __float_as_uint(rows[4 * i + place_.c][8 * j + place_.r]);
      }
    }
  }
  __device__ void load_inner(uint32_t (&to)[2][2], const StateRows<S>& rows) const {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float2 pair = make_float2(0.0f, 0.0f);
      if (S::kTile == 8 || place_.r < S::kTile) {
        pair = *reinterpret_cast<const float2*>(&rows[place_.r][8 * j + 2 * place_.c]);
      }
      to[j][0] = __float_as_uint(pair.x);
      to[j][1] = __float_as_uint(pair.y);
    }
  }
  struct Row {
    uint32_t outer[S::kTile / 4][2];
    uint32_t inner[2][2];
  };
  __device__ void load(Row& to, const StateRows<S>& rows, bool inner) const {
    load_outer(to.outer, rows);
    if (inner) load_inner(to.inner, rows);
  }

  // x += scale of the lane's channels, times token t's row.
  __device__ void add_outer(float (&x)[8], const float (&scale)[2], const Row& row, int t) const {
    // Products run over four tokens; all but t have a scale of 0.
    const bool mine = place_.c == t % 4;
    const uint32_t a[2] = {mine ? __float_as_uint(scale[0]) : 0,
                           mine ? __float_as_uint(scale[1]) : 0};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      device::mma_16x8x4_tf32(reinterpret_cast<float(&)[4]>(x[4 * j]), a, row.outer[t / 4][j]);
    }
  }

  // Token t's sums over the states: of x times its row.
  __device__ void sum_states(ChannelSums& to, const float (&x)[8], const Row& row, int t) const {
    float sums[4] = {};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const uint32_t a[4] = {bits(x[4 * j]), bits(x[4 * j + 2]), bits(x[4 * j + 1]),
                             bits(x[4 * j + 3])};
      device::mma_16x8x8_tf32(sums, a, row.inner[j]);
    }
    keep(to, sums[t % 2], sums[2 + t % 2], t);
  }
  // The same of what lanes have summed up over their states.
  __device__ void sum_lanes(ChannelSums& to, const float (&part)[2], int t) const {
    float sums[4] = {};
    const uint32_t a[2] = {bits(part[0]), bits(part[1])};
    device::mma_16x8x4_tf32(sums, a, bits(1.0f));
    keep(to, sums[0], sums[2], t);
  }
  // Token t's sums over the channels; x[2j + e]: over the lane's channels, of state 8j + 2c + e.
  __device__ void sum_channels(StateSums& to, const float (&x)[4], int t) const {
    float turned[4] = {}, sums[4] = {};
    const uint32_t low[4] = {unit_[0], 0, unit_[1], 0}, high[4] = {0, unit_[0], 0, unit_[1]};
    const uint32_t first[2] = {bits(x[0]), bits(x[1])}, second[2] = {bits(x[2]), bits(x[3])};
    device::mma_16x8x8_tf32(turned, low, first);
    device::mma_16x8x8_tf32(turned, high, second);
    const uint32_t a[4] = {bits(turned[0]), bits(turned[2]), bits(turned[1]), bits(turned[3])};
    const uint32_t ones[2] = {bits(1.0f), bits(1.0f)};
    device::mma_16x8x8_tf32(sums, a, ones);
    keep(to, sums[0], sums[2], t);
  }

  __device__ void store_shares(float (*to)[kShareStride], const StateSums& sums) const {
    if (2 * place_.c >= S::kTile) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) to[2 * place_.c + i % 2][place_.r + i / 2 * 8] = sums[i];
  }

 private:
  __device__ static uint32_t bits(float x) { return __float_as_uint(x); }
  // All lanes of a row have the sums; those that hold token t keep them.
  __device__ void keep(float (&to)[4], float first, float second, int t) const {
    const bool mine = place_.c == t / 2;
    to[t % 2] = mine ? first : to[t % 2];
    to[2 + t % 2] = mine ? second : to[2 + t % 2];
  }

  const LanePlace& place_;
  uint32_t unit_[2];
};

template <class S>
class PlainProducts {
 public:
  // Sums over channels of token r: states 2c, 2c + 1, 8 + 2c and 9 + 2c.
  using StateSums = float[4];
  struct Row {
    const StateRows<S>* rows;
  };

  __device__ explicit PlainProducts(const LanePlace& place) : place_(place) {}

  __device__ void load(Row& to, const StateRows<S>& rows, bool) const { to.rows = &rows; }

  __device__ void add_outer(float (&x)[8], const float (&scale)[2], const Row& row, int t) const {
#pragma unroll
    for (int k = 0; k < 8; ++k) x[k] = fmaf(scale[k / 2 % 2], at(row, t, k), x[k]);
  }
  __device__ void sum_states(ChannelSums& to, const float (&x)[8], const Row& row, int t) const {
    float part[2] = {};
#pragma unroll
    for (int k = 0; k < 8; ++k) part[k / 2 % 2] = fmaf(x[k], at(row, t, k), part[k / 2 % 2]);
    sum_lanes(to, part, t);
  }
  __device__ void sum_lanes(ChannelSums& to, const float (&part)[2], int t) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float sum = device::warp_sum<4>(part[h]);
      if (place_.c == t / 2) to[2 * h + t % 2] = sum;
    }
  }
  __device__ void sum_channels(StateSums& to, const float (&x)[4], int t) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float sum = x[i];
#pragma unroll
      for (int distance = 4; distance < device::kWarp; distance *= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
      }
      if (place_.r == t) to[i] = sum;
    }
  }
  __device__ void store_shares(float (*to)[kShareStride], const StateSums& sums) const {
    if (place_.r >= S::kTile) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) to[place_.r][i / 2 * 8 + 2 * place_.c + i % 2] = sums[i];
  }

 private:
  __device__ float at(const Row& row, int t, int k) const {
    return (*row.rows)[t][k / 4 * 8 + 2 * place_.c + k % 2];
  }
  const LanePlace& place_;
};

template <class S>
using Products = std::conditional_t<S::kAccurate, PlainProducts<S>, TensorProducts<S>>;

}  // namespace hax::selective_scan
