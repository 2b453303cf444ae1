// y of a chunk, from the products to memory.
#pragma once

#include "scan/ssd/ssd_kernel_forward_block.cuh"

namespace hax::ssd {

template <class T, int N, bool kOutput>
__device__ void ForwardBlock<T, N, kOutput>::outputs(const Chunk& chunk, int64_t sequence_row,
                                                     int64_t token) {
  uint32_t x[kBlocks][4];
#pragma unroll
  for (int first = 0; first < kChunk; first += kTogether) {
    forget_derived(h);
    float y[kTogether / 8][4] = {};
    add_from_state(y, chunk, first);
    if (first == 0) load_operands(x, chunk, sequence_row, token);
    weigh_outputs(y, x, decays(chunk), first);
    add_from_tokens(y, x, chunk, first);
    // The state's products go on while the last y leave.
    if (first + kTogether == kChunk) {
      advance(x, chunk);
      wait_for_products<1>();
    }
    finish(y, chunk, first);
  }
  __syncwarp();
  move_rows(p_.y, access_.y, chunk, sequence_row, token,
            [](auto& memory, auto& shared) { memory = shared; });
  wait_for_products<0>();
}

template <class T, int N, bool kOutput>
__device__ void ForwardBlock<T, N, kOutput>::load_operands(uint32_t (&x)[kBlocks][4],
                                                           const Chunk& chunk, int64_t sequence_row,
                                                           int64_t token) {
  load_x(x, chunk);
  if (!p_.z) return;
  __syncwarp();
  move_rows(p_.z, access_.z, chunk, sequence_row, token,
            [](auto& memory, auto& shared) { shared = memory; });
  __syncwarp();
}

template <class T, int N, bool kOutput>
__device__ void ForwardBlock<T, N, kOutput>::weigh_outputs(float (&y)[kTogether / 8][4],
                                                           const uint32_t (&x)[kBlocks][4],
                                                           const Decays& d, int first) {
#pragma unroll
  for (int i = 0; i < kTogether / 8; ++i) {
    const float2 decay = pair_of(d.from_start, first + 8 * i);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 own = device::unpack_pair<T>(x[first / kBlock + i / 2][i % 2 * 2 + half]);
      y[i][2 * half] = y[i][2 * half] * decay.x + skip_[half] * own.x;
      y[i][2 * half + 1] = y[i][2 * half + 1] * decay.y + skip_[half] * own.y;
    }
  }
}

template <class T, int N, bool kOutput>
__device__ void ForwardBlock<T, N, kOutput>::finish(float (&y)[kTogether / 8][4],
                                                    const Chunk& chunk, int first) {
#pragma unroll
  for (int block = 0; block < kTogether / kBlock; ++block) {
    const int j = first / kBlock + block;
    const uint32_t place = x_place(chunk, j * kBlock);
    const auto own = [&](int i) -> float* { return &y[2 * block + i / 2][i % 2 * 2]; };
    if (p_.z) {
      uint32_t z[4];
      device::load_matrix_x4_transposed(z, place);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 pair = device::unpack_pair<T>(z[i]);
        own(i)[0] *= device::silu(pair.x);
        own(i)[1] *= device::silu(pair.y);
      }
      __syncwarp();
    }
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = device::pack_pair<T>(own(i)[0], own(i)[1]);
    device::store_matrix_x4_transposed(place, words);
  }
}

template <class T, int N, bool kOutput>
template <class Move>
__device__ void ForwardBlock<T, N, kOutput>::move_rows(const Tensor& tensor, bool vectors,
                                                       const Chunk& chunk, int64_t sequence_row,
                                                       int64_t token, Move&& move) {
  const int group = lane_ % 2;
  const int columns = min(8, static_cast<int>(p_.width) - row - group * 8);
  T* memory = tensor.at<T>(sequence_row, token + lane_ / 2, head, row + group * 8);
  const int64_t stride = tensor.stride[3];
  const uint32_t tile = x_tile(chunk, unit_);
#pragma unroll 1
  for (int t = lane_ / 2; t < chunk.tokens && columns > 0;
       t += 16, memory += 16 * tensor.stride[1]) {
    void* const shared = device::shared_pointer(tile + x_panel().at(t, tile_row_ / 8 + group));
    if (vectors) {
      move(*reinterpret_cast<uint4*>(memory), *static_cast<uint4*>(shared));
    } else {
#pragma unroll 1
      for (int e = 0; e < columns; ++e) move(memory[e * stride], static_cast<T*>(shared)[e]);
    }
  }
}

}  // namespace hax::ssd
