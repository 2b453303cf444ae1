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

// Gradient of silu.
__device__ inline float silu_slope(float x) {
  const float s = sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}

// 2^x - 1 with full relative precision around 0. -1 below -126.5, saturates above 127.4; NaN stays NaN.
__device__ inline float exp2m1(float x) {
  const float clamped = fminf(127.4f, fmaxf(-127.0f, x));
  const float shifted = clamped + (0x1.8p23f + 127.0f);
  const float f = clamped - (shifted - (0x1.8p23f + 127.0f));
  // (2^f - 1) / f on [-1/2, 1/2], interpolated at Chebyshev nodes; relative error 2.3e-8.
  float p = 1.54531634e-4f;
  p = p * f + 1.33908633e-3f;
  p = p * f + 9.61808302e-3f;
  p = p * f + 5.55035695e-2f;
  p = p * f + 2.40226507e-1f;
  p = p * f + 6.93147182e-1f;
  p = p * f;
  // The low bits of `shifted` are the exponent field of 2^round(x).
  const float scale = __uint_as_float(__float_as_uint(shifted) << 23);
  const float result = p * scale + (scale - 1.0f);
  return x == x ? result : x;  // fminf and fmaxf drop NaN
}

// log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)); relative error 2^-21, in both tails.
__device__ inline float softplus(float x) {
  const float e = exp2_approx(-fabsf(x) * kLog2E);
  // log1p(e) / e on [0, 1], interpolated at Chebyshev nodes; relative error 3.2e-7.
  float p = -8.37115292e-3f;
  p = p * e + 4.34939004e-2f;
  p = p * e - 1.06850028e-1f;
  p = p * e + 1.76874772e-1f;
  p = p * e - 2.44747743e-1f;
  p = p * e + 3.32719296e-1f;
  p = p * e - 4.99971747e-1f;
  p = p * e + 9.99999762e-1f;
  return p * e + fmaxf(x, 0.0f);
}

// The same to 2^-22.
__device__ inline float softplus_accurate(float x) {
  return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
}

}  // namespace hax::device
