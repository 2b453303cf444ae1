// y of 16 tokens of a unit, from a warp's products to memory.
#pragma once

#include "scan/ssd/ssd_kernel_chunk.cuh"
#include "scan/ssd/ssd_kernel_forward_memory.cuh"

namespace hax::ssd {

// Lane 4 r + c has columns 8 i + 2 c and + 1 of tokens r and r + 8. They leave through the place of these tokens' x in
// shared memory, of which no other warp knows; Pairs of 8 columns.
template <class T, int Pairs, bool kPlain>
struct OutputTokens {
  const ForwardParams& p;
  const ForwardAccess& access;
  int head, first_column;

  static constexpr int kGroups = 2 * Pairs;              // of 16 bytes in a row
  static constexpr int kRows = device::kWarp / kGroups;  // that a warp moves at a time

  // Where the lane's first elements of 16 tokens lie in a tensor.
  __device__ T* lane_start(const Tensor& tensor, int64_t row, int64_t token) const {
    const int lane = threadIdx.x % device::kWarp;
    return tensor.at<T>(row, token + lane / kGroups, head, first_column + lane % kGroups * 8);
  }

  // The skip, where D has rows of its own, the gate, and away. tile: the first token's row; to: lane_start() of y; tokens
  // that are left, 16 or more if all are there.
  __device__ void finish(float (&y)[2 * Pairs][4], uint32_t tile, T* to, int64_t row, int64_t token,
                         int tokens) const {
    const MatrixPlace place(Panel{kGroups}, false);
    if constexpr (!kPlain) {
      if (p.D && p.D.ndim == 2) skip(y, tile);
      if (p.z) gate(y, tile, row, token, tokens);
    }
#pragma unroll
    for (int k = 0; k < Pairs; ++k) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* const own = &y[2 * k + i / 2][i % 2 * 2];
        words[i] = device::pack_pair<T>(own[0], own[1]);
      }
      device::store_matrix_x4(tile + place.at(k), words);
    }
    __syncwarp();
    move(p.y, kPlain || access.y, to, tile, tokens,
         [](auto& memory, auto& shared) { memory = shared; });
  }

 private:
  __device__ void gate(float (&y)[2 * Pairs][4], uint32_t tile, int64_t row, int64_t token,
                       int tokens) const {
    const MatrixPlace place(Panel{kGroups}, false);
    __syncwarp();
    move(p.z, access.z, lane_start(p.z, row, token), tile, tokens,
         [](auto& memory, auto& shared) { shared = memory; });
    __syncwarp();
#pragma unroll
    for (int k = 0; k < Pairs; ++k) {
      uint32_t z[4];
      device::load_matrix_x4(z, tile + place.at(k));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 pair = device::unpack_pair<T>(z[i]);
        float* const own = &y[2 * k + i / 2][i % 2 * 2];
        own[0] *= device::silu(pair.x), own[1] *= device::silu(pair.y);
      }
    }
    __syncwarp();
  }

  __device__ void skip(float (&y)[2 * Pairs][4], uint32_t tile) const {
    const MatrixPlace place(Panel{kGroups}, false);
#pragma unroll
    for (int k = 0; k < Pairs; ++k) {
      uint32_t x[4];
      device::load_matrix_x4(x, tile + place.at(k));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 pair = device::unpack_pair<T>(x[i]);
        const int64_t column = first_column + 16 * k + i / 2 * 8 + threadIdx.x % 4 * 2;
        const int64_t last = p.width - 1;
        float* const own = &y[2 * k + i / 2][i % 2 * 2];
        own[0] += *p.D.at<float>(head, min(column, last)) * pair.x;
        own[1] += *p.D.at<float>(head, min(column + 1, last)) * pair.y;
      }
    }
  }

  // Moves the tokens between a tensor and the tile: move(global, shared) for elements of T or 16 bytes.
  template <class Move>
  __device__ void move(const Tensor& tensor, bool vectors, T* memory, uint32_t tile, int tokens,
                       Move&& move) const {
    constexpr Panel panel{kGroups};
    const int lane = threadIdx.x % device::kWarp, group = lane % kGroups, own = lane / kGroups;
    const int columns = min(8, static_cast<int>(p.width) - first_column - group * 8);
    const int64_t stride = tensor.stride[3], step = kRows * tensor.stride[1];
#pragma unroll
    for (int i = 0; i < kBlock / kRows; ++i, memory += step) {
      const int t = own + kRows * i;
      if (t >= tokens || columns <= 0) continue;
      void* const shared = device::shared_pointer(tile + panel.at(t, group));
      if (vectors) {
        move(*reinterpret_cast<uint4*>(memory), *static_cast<uint4*>(shared));
      } else {
#pragma unroll 1
        for (int e = 0; e < columns; ++e) move(memory[e * stride], static_cast<T*>(shared)[e]);
      }
    }
  }
};

}  // namespace hax::ssd
