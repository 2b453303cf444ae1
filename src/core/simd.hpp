// Vectors of fp32 lanes for the CPU kernels, on the compilers' vector extension: arithmetic, comparison
// (lanes of 0 or -1) and a ? b : c are the operators themselves. Only files named *_cpu*.cpp include it.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "core/cpu_level.hpp"

namespace hax::simd {
inline namespace HAX_CPU_LEVEL_NAME {

inline constexpr int kLanes = HAX_VEC_BYTES / 4;

typedef float Vec __attribute__((vector_size(HAX_VEC_BYTES)));
typedef int32_t IntVec __attribute__((vector_size(HAX_VEC_BYTES)));
typedef uint32_t UintVec __attribute__((vector_size(HAX_VEC_BYTES)));
typedef uint16_t HalfVec __attribute__((vector_size(HAX_VEC_BYTES / 2)));

HAX_INLINE Vec set(float x) { return x - Vec{}; }

template <class To, class From>
HAX_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// ---- conversion, one element ----

HAX_INLINE float to_float(float x) { return x; }

HAX_INLINE float to_float(bf16 x) { return bit_cast<float>(uint32_t{x.bits} << 16); }

// Through the exponent trick: place exponent and mantissa where fp32 has them, then rescale, which also
// normalises subnormals; infinities and NaNs get their exponent set afterwards.
HAX_INLINE float to_float(fp16 x) {
  const uint32_t magnitude = uint32_t{x.bits & 0x7fffu} << 13;
  const float scaled = bit_cast<float>(magnitude) * 0x1p112f;
  uint32_t bits = bit_cast<uint32_t>(scaled);
  bits |= (x.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return bit_cast<float>(bits | uint32_t{x.bits & 0x8000u} << 16);
}

template <class T>
T from_float(float x);

template <>
HAX_INLINE float from_float<float>(float x) {
  return x;
}

// Round to nearest, ties to even; a NaN stays one.
template <>
HAX_INLINE bf16 from_float<bf16>(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  return {static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded)};
}

// Adding a power of two chosen from the exponent makes the fp32 adder round at fp16's last bit.
template <>
HAX_INLINE fp16 from_float<fp16>(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {
    half = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return {static_cast<uint16_t>(sign | half)};
}

// ---- conversion, whole vectors; addresses need no alignment ----

HAX_INLINE Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

HAX_INLINE UintVec load_bits(const uint16_t* p) {
  HalfVec half;
  std::memcpy(&half, p, sizeof(half));
  return __builtin_convertvector(half, UintVec);
}

HAX_INLINE Vec load(const bf16* p) { return bit_cast<Vec>(load_bits(&p->bits) << 16); }

HAX_INLINE Vec load(const fp16* p) {
  const UintVec bits = load_bits(&p->bits);
  const Vec scaled = bit_cast<Vec>((bits & 0x7fffu) << 13) * 0x1p112f;
  const UintVec special = bit_cast<UintVec>((bits & 0x7c00u) == 0x7c00u) & 0x7f800000u;
  return bit_cast<Vec>(bit_cast<UintVec>(scaled) | special | (bits & 0x8000u) << 16);
}

HAX_INLINE void store(float* p, Vec v) { std::memcpy(p, &v, sizeof(v)); }

HAX_INLINE void store_bits(uint16_t* p, UintVec bits) {
  const HalfVec half = __builtin_convertvector(bits, HalfVec);
  std::memcpy(p, &half, sizeof(half));
}

HAX_INLINE void store(bf16* p, Vec v) {
  const UintVec bits = bit_cast<UintVec>(v);
  const UintVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const UintVec nan = (bits >> 16) | 0x40u;
  const IntVec is_nan = v != v;
  store_bits(&p->bits, is_nan ? nan : rounded);
}

HAX_INLINE void store(fp16* p, Vec v) {
  for (int i = 0; i < kLanes; ++i) p[i] = from_float<fp16>(v[i]);
}

// The first n lanes, 0 <= n <= kLanes; the others are 0, or not written.
template <class T>
HAX_INLINE Vec load_first(const T* p, int n) {
  if (n == kLanes) return load(p);
  T lanes[kLanes] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}

template <class T>
HAX_INLINE void store_first(T* p, Vec v, int n) {
  if (n == kLanes) return store(p, v);
  T lanes[kLanes];
  store(lanes, v);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}

// n elements at a stride into or out of a contiguous fp32 row.
template <class T>
HAX_INLINE void load_row(float* to, const T* from, int64_t stride, int64_t n) {
  int64_t i = 0;
  if (stride == 1) {
    for (; i + kLanes <= n; i += kLanes) store(to + i, load(from + i));
  }
  for (; i < n; ++i) to[i] = to_float(from[i * stride]);
}

template <class T>
HAX_INLINE void store_row(T* to, int64_t stride, const float* from, int64_t n) {
  int64_t i = 0;
  if (stride == 1) {
    for (; i + kLanes <= n; i += kLanes) store(to + i, load(from + i));
  }
  for (; i < n; ++i) to[i * stride] = from_float<T>(from[i]);
}

// ---- arithmetic ----

HAX_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
HAX_INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }
HAX_INLINE Vec abs(Vec a) { return bit_cast<Vec>(bit_cast<UintVec>(a) & 0x7fffffffu); }

// Pairwise, so that the order of additions is fixed.
HAX_INLINE float sum(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

HAX_INLINE float max_lane(Vec v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

// 2^x within 2 ulp; 0 below -126 (results that would be subnormal), infinity from 128 on; NaN stays NaN.
HAX_INLINE Vec exp2(Vec x) {
  const Vec clamped = min(max(x, set(-127.0f)), set(128.0f));
  const Vec shifted = clamped + 0x1.8p23f;
  const Vec fraction = clamped - (shifted - 0x1.8p23f);
  // Taylor coefficients of 2^f, f in [-1/2, 1/2]; the first left out is below 2^-27.
  Vec p = set(1.5403530e-4f);
  p = p * fraction + 1.3333558e-3f;
  p = p * fraction + 9.6181291e-3f;
  p = p * fraction + 5.5504109e-2f;
  p = p * fraction + 2.4022651e-1f;
  p = p * fraction + 6.9314718e-1f;
  p = p * fraction + 1.0f;
  // The integer part sits in the low bits of `shifted`. Split in two steps so that 2^128 is reached.
  const IntVec exponent = bit_cast<IntVec>(shifted) - bit_cast<IntVec>(set(0x1.8p23f));
  const IntVec half = exponent >> 1;
  const Vec result =
      p * bit_cast<Vec>((half + 127) << 23) * bit_cast<Vec>((exponent - half + 127) << 23);
  const Vec flushed = x < -126.0f ? Vec{} : result;
  return x != x ? x : flushed;
}

// exp(x) within 2 ulp over the range where the result is normal.
HAX_INLINE Vec exp(Vec x) {
  const Vec clamped = min(max(x, set(-88.0f)), set(89.0f));
  const Vec shifted = clamped * 1.44269504f + 0x1.8p23f;
  const Vec n = shifted - 0x1.8p23f;
  const Vec r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
  Vec p = set(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const IntVec exponent = bit_cast<IntVec>(shifted) - bit_cast<IntVec>(set(0x1.8p23f));
  const IntVec half = exponent >> 1;
  const Vec result =
      p * bit_cast<Vec>((half + 127) << 23) * bit_cast<Vec>((exponent - half + 127) << 23);
  const Vec flushed = x < -87.33654f ? Vec{} : result;
  return x != x ? x : flushed;
}

// log(1 + x) for 0 <= x <= 1, to full relative precision: 2 atanh(x / (2 + x)).
HAX_INLINE Vec log1p_unit(Vec x) {
  const Vec s = x / (x + 2.0f);
  const Vec s2 = s * s;
  Vec p = set(2.0f / 15);
  p = p * s2 + 2.0f / 13;
  p = p * s2 + 2.0f / 11;
  p = p * s2 + 2.0f / 9;
  p = p * s2 + 2.0f / 7;
  p = p * s2 + 2.0f / 5;
  p = p * s2 + 2.0f / 3;
  p = p * s2 + 2.0f;
  return p * s;
}

// log(1 + exp(x)), which never overflows.
HAX_INLINE Vec softplus(Vec x) { return max(x, Vec{}) + log1p_unit(exp(-abs(x))); }

HAX_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

HAX_INLINE Vec silu(Vec x) { return x * sigmoid(x); }

// d silu(x) / dx
HAX_INLINE Vec silu_slope(Vec x) {
  const Vec s = sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax::simd
