// Products of tiles of 64 rows in shared memory, for activations of 16 bits: by warpgroups where the GPU has them,
// otherwise warp by warp. A tile is cut into panels of 64 columns; a panel's rows have 128 bytes, whose 16-byte groups
// are exchanged by (row & 7). Warp w of the block's four has rows 16 w .. 16 w + 15 of every result.
#pragma once

#include "device/mma.cuh"
#include "device/warpgroup_shapes.cuh"

namespace hax::sparse_attention {

inline constexpr int kTileRows = 64;
inline constexpr int kPanelBytes = kTileRows * 128;

template <int kColumns>
inline constexpr int kSwizzledBytes = (kColumns + 63) / 64 * kPanelBytes;

// Where 8 columns of a row lie, in bytes.
__device__ inline int swizzled_place(int row, int eight) {
  return eight / 8 * kPanelBytes + row * 128 + (((eight ^ row) & 7) * 16);
}

// 64 x 64, as the tensor cores leave it: lane 4 r + c holds of 8 columns n (r, 2c), (r, 2c + 1), (r + 8, 2c) and so on.
using Pairs = float[8][4];

template <class T>
struct TileProducts {
  static constexpr bool kWarpgroups = device::kWarpgroupProducts;

  // The calling warps' view of shared memory as products read it.
  static __device__ void publish() {
    if constexpr (kWarpgroups) device::publish_to_products();
  }
  static __device__ void begin() {
    if constexpr (kWarpgroups) device::begin_products();
  }
  static __device__ void end() {
    if constexpr (kWarpgroups) device::end_products();
  }
  template <int Pending>
  static __device__ void wait() {
    if constexpr (kWarpgroups) device::wait_for_products<Pending>();
  }
  // After wait: keeps the compiler from using results earlier.
  template <int kBlocks>
  static __device__ void settle(float (&sum)[kBlocks][4]) {
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      asm volatile(""
                   : "+f"(sum[n][0]), "+f"(sum[n][1]), "+f"(sum[n][2]), "+f"(sum[n][3])::"memory");
    }
  }

  // sum = a b^T over kColumns columns.
  template <int kColumns>
  static __device__ void multiply_rows(Pairs& sum, uint32_t a, uint32_t b) {
    if constexpr (kWarpgroups) {
      const uint64_t left = device::swizzled_operand(a, 16, 1024);
      const uint64_t right = device::swizzled_operand(b, 16, 1024);
#pragma unroll
      for (int k = 0; k < kColumns / 16; ++k) {
        const int at = k / 4 * kPanelBytes + k % 4 * 32;
        device::warpgroup_mma_shared<T>(sum, device::operand_at(left, at),
                                        device::operand_at(right, at), k > 0);
      }
    } else {
      const int lane = static_cast<int>(threadIdx.x % 32);
      const int row = static_cast<int>(threadIdx.x / 32) * 16 + lane % 16;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[n][e] = 0.0f;
      }
#pragma unroll
      for (int k = 0; k < kColumns / 16; ++k) {
        uint32_t left[4];
        device::load_matrix_x4(left, a + swizzled_place(row, 2 * k + lane / 16));
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          uint32_t right[4];
          device::load_matrix_x4(
              right, b + swizzled_place(16 * n + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
          device::mma_16x8x16<T>(sum[2 * n], left, {right[0], right[1]});
          device::mma_16x8x16<T>(sum[2 * n + 1], left, {right[2], right[3]});
        }
      }
    }
  }

  // sum += a b, with a 64 x 64 in registers; b has 8 kBlocks columns.
  template <int kBlocks>
  static __device__ void add_product(float (&sum)[kBlocks][4], const uint32_t (&a)[4][4],
                                     uint32_t b) {
    if constexpr (kWarpgroups) {
      const uint64_t right = device::swizzled_operand(b, kPanelBytes, 1024);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        device::warpgroup_mma<T, true>(sum, a[k], device::operand_at(right, k * 16 * 128));
      }
    } else {
      const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int n = 0; n < kBlocks / 2; ++n) {
          uint32_t right[4];
          device::load_matrix_x4_transposed(
              right, b + swizzled_place(16 * k + lane % 16, 2 * n + lane / 16));
          device::mma_16x8x16<T>(sum[2 * n], a[k], {right[0], right[1]});
          device::mma_16x8x16<T>(sum[2 * n + 1], a[k], {right[2], right[3]});
        }
      }
    }
  }

  // Such a left factor from a result.
  static __device__ void pack(uint32_t (&to)[4][4], const Pairs& from) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* const pair = &from[2 * k + i / 2][i % 2 * 2];
        to[k][i] = device::pack_pair<T>(pair[0], pair[1]);
      }
    }
  }

  // A left factor to a panel in shared memory, and, behind a barrier, its transposed from there.
  static __device__ void store_factor(uint32_t panel, const uint32_t (&a)[4][4]) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int row = static_cast<int>(threadIdx.x / 32) * 16 + lane % 16;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      device::store_matrix_x4(panel + swizzled_place(row, 2 * k + lane / 16), a[k]);
    }
  }
  static __device__ void load_transposed(uint32_t (&a)[4][4], uint32_t panel) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int eight = static_cast<int>(threadIdx.x / 32) * 2 + lane / 8 % 2;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int row = 16 * k + lane % 8 + lane / 16 * 8;
      device::load_matrix_x4_transposed(a[k], panel + swizzled_place(row, eight));
    }
  }
};

}  // namespace hax::sparse_attention
