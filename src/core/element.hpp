// Element types. fp16 and bf16 are bit patterns here; arithmetic is in fp32 (see simd.hpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace hax {

// Small functions shared by files compiled for several CPU levels must never get an out-of-line copy:
// the linker would keep one, perhaps with instructions that the machine lacks.
#define HAX_INLINE [[gnu::always_inline]] inline

// The same, callable from CUDA kernels too.
#ifdef __CUDACC__
#define HAX_EVERYWHERE __host__ __device__ HAX_INLINE
#else
#define HAX_EVERYWHERE HAX_INLINE
#endif

struct fp16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

enum class Type : uint8_t { none, fp32, fp16, bf16, int32, int64 };

HAX_EVERYWHERE constexpr size_t size_of(Type type) {
  switch (type) {
    case Type::none: return 0;
    case Type::fp16:
    case Type::bf16: return 2;
    case Type::fp32:
    case Type::int32: return 4;
    case Type::int64: return 8;
  }
  return 0;
}

template <class T>
inline constexpr Type type_of = Type::none;
template <>
inline constexpr Type type_of<float> = Type::fp32;
template <>
inline constexpr Type type_of<fp16> = Type::fp16;
template <>
inline constexpr Type type_of<bf16> = Type::bf16;
template <>
inline constexpr Type type_of<int32_t> = Type::int32;
template <>
inline constexpr Type type_of<int64_t> = Type::int64;

}  // namespace hax
