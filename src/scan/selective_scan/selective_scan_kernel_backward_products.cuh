// The products of a tile's states with B, C and each other's channels: on tensor cores for 16-bit
// activations, whose B and C are exact in tf32, with the other operands rounded or cut off to it; in fp32
// arithmetic for fp32 ones. What they are handed and give lies as selective_scan_kernel_backward_tile.cuh says.
#pragma once

#include "device/mma.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_tile.cuh"

namespace hax::selective_scan {

// In shared memory: a token's sums over states of 16 channels, or over channels of 16 states.
using SumsOfToken = float[20];

// A run is S::kRun = 4 tokens, t among them. Adding up goes over the columns of a product of 8 x 8 or less:
// over c, never over r. Sums over channels, which lie along r, therefore turn their numbers over by a
// product with the unit matrix first.
template <class S>
class TensorProducts {
 public:
  // Sums over states of token r: of channels 2c and 2c + 1, then those + 8.
  using RowSums = float[4];
  // Sums over states of tokens 2c and 2c + 1: of channel r, then r + 8.
  using ColumnSums = float[4];
  // Sums over channels of tokens 2c and 2c + 1: of state r, then r + 8.
  using StateSums = float[4];
  // A run's rows of B or C as operands: to multiply channels with, to sum over states with.
  using Outer = uint32_t[2];
  using Inner = uint32_t[4];

  __device__ explicit TensorProducts(const LanePlace& place) : r_(place.r), c_(place.c) {
    // What nobody reads of an operand gets a register of its own: the operand can stay where it is.
    __shared__ uint4 units[device::kWarp];
    const uint32_t one = bits(1.0f);
    if (place.warp == 0) {
      units[place.lane] = make_uint4(r_ == 2 * c_ ? one : 0, 0, r_ == 2 * c_ + 1 ? one : 0, 0);
    }
    __syncthreads();
    load_quad(unit_, &units[place.lane]);
  }

  __device__ void load_outer(Outer& to, const StateRow* rows) const {
    const float2 pair = *reinterpret_cast<const float2*>(&rows[c_][2 * r_]);
    to[0] = bits(pair.x);
    to[1] = bits(pair.y);
  }
  __device__ void load_inner(Inner& to, const StateRow* rows) const {
    load_quad(to, &rows[r_ % S::kRun][4 * c_]);
  }

  // x += scale of the lane's channels, times token t's row, in the order of results.
  __device__ void add_outer(float (&x)[8], const float (&scale)[2], const Outer& row, int t) const {
    // Products run over four tokens; all but t have a scale of 0.
    const bool mine = c_ == t;
    const uint32_t a[2] = {mine ? bits(scale[0]) : 0, mine ? bits(scale[1]) : 0};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      device::mma_16x8x4_tf32(reinterpret_cast<float(&)[4]>(x[4 * j]), a, row[j]);
    }
  }

  // Token t's sums over the states of x times its row.
  __device__ void sum_states(ColumnSums& to, const float (&x)[8], const Inner& row, int t) const {
    float sums[4] = {};
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const uint32_t a[4] = {bits(x[4 * e]), bits(x[4 * e + 1]), bits(x[4 * e + 2]),
                             bits(x[4 * e + 3])};
      const uint32_t b[2] = {row[2 * e], row[2 * e + 1]};
      device::mma_16x8x8_tf32(sums, a, b);
    }
    const bool mine = c_ == t / 2;
    to[t % 2] = mine ? sums[t % 2] : to[t % 2];
    to[2 + t % 2] = mine ? sums[2 + t % 2] : to[2 + t % 2];
  }
  // The same of an x in the order of results.
  __device__ void sum_result_states(RowSums& to, const float (&x)[8], const Inner& row,
                                    int t) const {
    const bool mine = r_ == t;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      float sums[2][4] = {};  // the upper half of the rows is of states 8 and more
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const uint32_t b[2] = {bits(x[4 * j + 2 * m]), bits(x[4 * j + 2 * m + 1])};
        device::mma_16x8x8_tf32(sums[j], row, b);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float sum = sums[0][i] + sums[1][2 + i];
        to[2 * m + i] = mine ? sum : to[2 * m + i];
      }
    }
  }
  // The same of what lanes have summed up over their states. Other tokens' columns get zeros, but where the
  // sum is no number.
  __device__ void sum_lanes(ColumnSums& to, const float (&part)[2], int t) const {
    const uint32_t a[2] = {bits(part[0]), bits(part[1])};
    device::mma_16x8x4_tf32(to, a, r_ == t ? bits(1.0f) : 0);
  }
  // Token t's sums over the channels; x[2j + e]: over the lane's channels, of state 8j + 2c + e.
  __device__ void sum_channels(StateSums& to, const float (&x)[4], int t) const {
    float part[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float turned[4] = {};
      const uint32_t b[2] = {bits(x[2 * j]), bits(x[2 * j + 1])};
      device::mma_16x8x8_tf32(turned, unit_, b);
      part[j] = turned[0] + turned[1];
    }
    sum_lanes(to, part, t);
  }

  __device__ void store_sums(SumsOfToken* to, const RowSums& sums) const {
    if (r_ >= S::kRun) return;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      *reinterpret_cast<float2*>(&to[r_][8 * m + 2 * c_]) =
          make_float2(sums[2 * m], sums[2 * m + 1]);
    }
  }
  __device__ void store_columns(SumsOfToken* to, const float (&sums)[4]) const {
    if (2 * c_ >= S::kRun) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) to[2 * c_ + i % 2][r_ + i / 2 * 8] = sums[i];
  }
  __device__ void store_shares(SumsOfToken* to, const StateSums& sums) const {
    store_columns(to, sums);
  }

 private:
  __device__ static uint32_t bits(float x) { return __float_as_uint(x); }
  // Four neighbouring registers of which the compiler knows nothing, or it would build operands anew for
  // each product.
  __device__ static void load_quad(uint32_t (&to)[4], const void* from) {
    asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(device::shared_address(from))
                 : "memory");
  }
  const int r_, c_;
  uint32_t unit_[4];
};

// The same interface in fp32 arithmetic.
template <class S>
class PlainProducts {
 public:
  // Sums over states of tokens 2c and 2c + 1: of channel r, then r + 8.
  using RowSums = float[4];
  using ColumnSums = float[4];
  // Sums over channels of token r: of states 2c, 2c + 1, 8 + 2c and 9 + 2c.
  using StateSums = float[4];
  using Row = const StateRow*;
  using Outer = Row;
  using Inner = Row;

  __device__ explicit PlainProducts(const LanePlace& place) : r_(place.r), c_(place.c) {}

  __device__ void load_outer(Row& to, Row rows) const { to = rows; }
  __device__ void load_inner(Row& to, Row rows) const { to = rows; }

  __device__ void add_outer(float (&x)[8], const float (&scale)[2], Row row, int t) const {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      float& of_k = x[result_place(k)];
      of_k = fmaf(scale[k % 2], row[t][4 * c_ + k / 4 * 2 + k / 2 % 2], of_k);
    }
  }
  __device__ void sum_states(ColumnSums& to, const float (&x)[8], Row row, int t) const {
    float part[2] = {};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      part[k % 2] = fmaf(x[k], row[t][4 * c_ + k / 4 * 2 + k / 2 % 2], part[k % 2]);
    }
    sum_lanes(to, part, t);
  }
  __device__ void sum_result_states(RowSums& to, const float (&x)[8], Row row, int t) const {
    float ordered[8];
    from_results(ordered, x);
    sum_states(to, ordered, row, t);
  }
  __device__ void sum_lanes(ColumnSums& to, const float (&part)[2], int t) const {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const float sum = device::warp_sum<4>(part[m]);
      if (c_ == t / 2) to[2 * m + t % 2] = sum;
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
      if (r_ == t) to[i] = sum;
    }
  }

  __device__ void store_sums(SumsOfToken* to, const RowSums& sums) const {
    store_columns(to, sums);
  }
  __device__ void store_columns(SumsOfToken* to, const ColumnSums& sums) const {
    if (2 * c_ >= S::kRun) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) to[2 * c_ + i % 2][r_ + i / 2 * 8] = sums[i];
  }
  __device__ void store_shares(SumsOfToken* to, const StateSums& sums) const {
    if (r_ >= S::kRun) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) to[r_][i / 2 * 8 + 2 * c_ + i % 2] = sums[i];
  }

 private:
  const int r_, c_;
};

template <class S>
using Products = std::conditional_t<S::kAccurate, PlainProducts<S>, TensorProducts<S>>;

}  // namespace hax::selective_scan
