// Warp-level matrix products, as sm_80 and later have them. Fragments are the hardware's: lane = 4 r + c holds rows
// r and r + 8, columns 2c and 2c + 1 of each 8 x 8 block (PTX ISA, "Matrix Fragments for mma").
#pragma once

#include <cstdint>

#include "core/element.hpp"

namespace hax::device {

// d += a b with a 16 x 16 (row-major), b 16 x 8 (column-major), both of T, d 16 x 8 in fp32.
template <class T>
__device__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (type_of<T> == Type::bf16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    static_assert(type_of<T> == Type::fp16);
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

// d = a b with a 16 x 8 (row-major), b 8 x 8 (column-major), both bf16, d 16 x 8 in fp32: the first half of the
// registers of 16 x 8 x 16.
__device__ inline void mma_16x8x8_bf16(float (&d)[4], const uint32_t (&a)[2], uint32_t b) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%7,%7,%7,%7};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b), "f"(0.0f));
}

// d += a b with a 16 x 8 (row-major), b 8 x 8 (column-major) in tf32, d 16 x 8 in fp32. Lane 4 r + c holds of a: (r, c),
// (r + 8, c), (r, c + 4), (r + 8, c + 4); of b: (c, r), (c + 4, r).
__device__ inline void mma_16x8x8_tf32(float (&d)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same with a 16 x 4, b 4 x 8: the first half of the registers.
__device__ inline void mma_16x8x4_tf32(float (&d)[4], const uint32_t (&a)[2], uint32_t b) {
  asm volatile(
      "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}

// An fp32 number as the sum of two of tf32, which keeps 21 bits of it: three products of such halves (high high,
// high low, low high) come within a few ulp of fp32.
struct SplitTf32 {
  uint32_t high, low;
};
__device__ inline SplitTf32 split_tf32(float value) {
  SplitTf32 split;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(split.high) : "f"(value));
  const float rest = value - __uint_as_float(split.high);
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(split.low) : "f"(rest));
  return split;
}

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ inline void* shared_pointer(uint32_t address) {
  return __cvta_shared_to_generic(address);
}

__device__ inline void store_shared(uint32_t to, uint32_t word) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(word) : "memory");
}

// Four 8 x 8 blocks of 16-bit elements; lane i gives the address of row i % 8 of block i / 8 (16 bytes, aligned).
__device__ inline void load_matrix_x4(uint32_t (&to)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}
__device__ inline void load_matrix_x4(uint32_t (&to)[4], const void* row) {
  load_matrix_x4(to, shared_address(row));
}

// The same, each block transposed.
__device__ inline void load_matrix_x4_transposed(uint32_t (&to)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}
__device__ inline void load_matrix_x4_transposed(uint32_t (&to)[4], const void* row) {
  load_matrix_x4_transposed(to, shared_address(row));
}

// Four 8 x 8 blocks of 16-bit elements to shared memory; the address of row i % 8 of block i / 8 comes from lane i.
__device__ inline void store_matrix_x4(uint32_t row, const uint32_t (&from)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(row),
               "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
#else
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    const uint32_t to = __shfl_sync(0xffffffffu, row, 8 * block + lane / 4) + lane % 4 * 4;
    store_shared(to, from[block]);
  }
#endif
}

// Four 8 x 8 blocks of 16-bit elements to shared memory, each transposed; the address of row i % 8 (of the transposed
// block i / 8) comes from lane i.
__device__ inline void store_matrix_x4_transposed(uint32_t row, const uint32_t (&from)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(row),
               "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
#else
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    uint32_t transposed;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(from[block]));
    const uint32_t to = __shfl_sync(0xffffffffu, row, 8 * block + lane / 4) + lane % 4 * 4;
    store_shared(to, transposed);
  }
#endif
}

// Two numbers of T in a word, as fragments hold them.
template <class T>
__device__ uint32_t pack_pair(float first, float second) {
  uint32_t word;
  if constexpr (type_of<T> == Type::bf16) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  } else {
    static_assert(type_of<T> == Type::fp16);
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  }
  return word;
}

template <class T>
__device__ float2 unpack_pair(uint32_t word) {
  if constexpr (type_of<T> == Type::bf16) {
    return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
  } else {
    float2 pair;
    asm("{.reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
        : "=f"(pair.x), "=f"(pair.y)
        : "r"(word));
    return pair;
  }
}

}  // namespace hax::device
