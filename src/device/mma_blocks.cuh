// Products and moves of small blocks of bf16, beside those of mma.cuh.
#pragma once

#include "device/mma.cuh"

namespace hax::device {

// d += a b with a 16 x 8 (row-major), b 8 x 8 (column-major) in bf16, d 16 x 8 in fp32.
__device__ inline void add_mma_16x8x8_bf16(float (&d)[4], const uint32_t (&a)[2], uint32_t b) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}

// Pairs of bf16: a b, and a b + c rounded once.
__device__ inline uint32_t add_product_pairs_bf16(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t sum;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
}
__device__ inline uint32_t multiply_pairs_bf16(uint32_t a, uint32_t b) {
  return add_product_pairs_bf16(a, b, 0x80008000u);  // with -0, which changes no product
}

// Four 8 x 8 blocks of 16-bit elements to 512 aligned bytes of shared memory, block after block, row after row.
__device__ inline void store_matrix_x4(void* to, int lane, const uint32_t (&from)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(
                   shared_address(to) + 16 * lane),
               "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
#else
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    store_shared(shared_address(to) + 128 * block + 4 * lane, from[block]);
  }
#endif
}

}  // namespace hax::device
