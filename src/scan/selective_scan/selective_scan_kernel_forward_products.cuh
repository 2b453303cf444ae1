// Operands of the products that tensor cores take from the forward with bf16 activations: the states' inputs
// B dt u, an outer product, and their sums with C. Four lanes have a channel, four states each: lane = 4 row + part.
#pragma once

#include "device/mma.cuh"
#include "scan/selective_scan/selective_scan_kernel_warp.cuh"

namespace hax::selective_scan {

template <class S>
inline constexpr bool kTensor =
    type_of<typename S::T> == Type::bf16&& S::kLanes == 4 && S::kStates == 4 && S::kVectors;

// An fp32 number as a sum of two of bf16, which keeps 17 bits of it.
__device__ inline uint32_t split_bf16(float value) {
  // Rounded, so that the rest has a bit less.
  const float high = __uint_as_float((__float_as_uint(value) + 0x8000u) & 0xffff0000u);
  return device::pack_pair<bf16>(high, value - high);
}

// B's states 2 row and 2 row + 1 of a token, each for both halves of dt u: columns of even and of odd states.
struct InputColumns {
  uint32_t even, odd;

  InputColumns() = default;
  __device__ explicit InputColumns(uint32_t states) {
    asm("prmt.b32 %0, %1, 0, 0x1010;" : "=r"(even) : "r"(states));
    asm("prmt.b32 %0, %1, 0, 0x3232;" : "=r"(odd) : "r"(states));
  }
};

// C of the token whose sums the lane's column takes, for the lane's four states.
struct SumColumn {
  uint32_t of[2][2];

  SumColumn() = default;
  __device__ explicit SumColumn(uint2 states) {
    const float2 low = device::unpack_pair<bf16>(states.x);
    const float2 high = device::unpack_pair<bf16>(states.y);
    of[0][0] = __float_as_uint(low.x);
    of[0][1] = __float_as_uint(low.y);
    of[1][0] = __float_as_uint(high.x);
    of[1][1] = __float_as_uint(high.y);
  }
};

// Sums over n of all four lanes: of row `upper` for the tokens of columns 2 part and 2 part + 1, then of row `lower`.
__device__ inline void tensor_sums(float (&sums)[4], const float (&upper)[4],
                                   const float (&lower)[4], const SumColumn& C) {
#pragma unroll
  for (float& sum : sums) sum = 0.0f;
#pragma unroll
  for (int k = 0; k < 4; k += 2) {
    const uint32_t h[4] = {__float_as_uint(upper[k]), __float_as_uint(lower[k]),
                           __float_as_uint(upper[k + 1]), __float_as_uint(lower[k + 1])};
    device::mma_16x8x8_tf32(sums, h, C.of[k / 2]);
  }
}

// Steps of a chunk where a lane has two channels, those of two tokens and both channels together.
template <class S>
struct PairSteps {
  float2 dt[S::kTokens * S::kRows];

  __device__ void store(int t, int row, float2 values) { dt[place(t, row)] = values; }
  __device__ void load(float2 (&to)[S::kTokens], int row) const {
#pragma unroll
    for (int t = 0; t < S::kTokens; t += 2) {
      const float4 both = *reinterpret_cast<const float4*>(&dt[place(t, row)]);
      to[t] = make_float2(both.x, both.y);
      to[t + 1] = make_float2(both.z, both.w);
    }
  }

 private:
  // Swizzled: lanes that store tokens of a row do not meet in a bank.
  __device__ static int place(int t, int row) {
    return (t / 2 * S::kRows + (row ^ t / 2 % 2 * 4)) * 2 + t % 2;
  }
};

// The same where a lane has one channel.
template <class S>
struct RingSteps {
  float dt[S::kRows * S::kTokens];

  __device__ void store(int t, int row, float value) {
    dt[row * S::kTokens + (t ^ turn(row))] = value;
  }
  __device__ void load(float (&to)[S::kTokens], int row) const {
#pragma unroll
    for (int t = 0; t < S::kTokens; t += 4) {
      const float4 four = *reinterpret_cast<const float4*>(&dt[row * S::kTokens + (t ^ turn(row))]);
      to[t] = four.x;
      to[t + 1] = four.y;
      to[t + 2] = four.z;
      to[t + 3] = four.w;
    }
  }

 private:
  // Swizzled: lanes that store do not meet in a bank.
  __device__ static int turn(int row) { return row / 4 * 4; }
};

}  // namespace hax::selective_scan
