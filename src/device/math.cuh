// Functions of fp32, a few ulp from exact unless said otherwise.
#pragma once

namespace hax::device {

inline constexpr float kLog2E = 1.44269504088896341f;
inline constexpr float kLn2 = 0.69314718055994531f;

// 2^x by the special-function unit; relative error 2^-22.
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float sigmoid(float x) {
  return reciprocal_approx(1.0f + exp2_approx(-x * kLog2E));
}

__device__ inline float silu(float x) { return x * sigmoid(x); }

// d silu(x) / dx
__device__ inline float silu_slope(float x) {
  const float s = sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}

}  // namespace hax::device
