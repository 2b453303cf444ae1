// The products of ssd's forward, by warpgroups or by warps.
#pragma once

#include "scan/ssd/ssd_kernel_forward_block.cuh"

namespace hax::ssd {

template <class T, int N, bool kOutput>
__device__ void ForwardBlock<T, N, kOutput>::add_from_state(float (&y)[kTogether / 8][4],
                                                            const Chunk& chunk, int first) {
  const auto packed = [&](uint32_t(&state)[4], int k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* const from = &h[2 * k + i / 2][i % 2 * 2];
      state[i] = device::pack_pair<T>(from[0], from[1]);
    }
  };
  if constexpr (kWarpgroups) {
    constexpr int kSteps = N / 16 < 8 ? N / 16 : 8;  // whose left operands have registers
    const uint64_t C = device::swizzled_operand(C_tile(chunk), 16, 1024);
#pragma unroll
    for (int first_step = 0; first_step < N / 16; first_step += kSteps) {
      uint32_t state[kSteps][4];
#pragma unroll
      for (int i = 0; i < kSteps; ++i) packed(state[i], first_step + i);
      device::begin_products();
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const int k = first_step + i;
        device::warpgroup_mma<T, false>(y, state[i],
                                        device::operand_at(C, k / 4 * kPanelBytes + k % 4 * 32));
      }
      device::end_products();
      device::wait_for_products<0>();
    }
  } else {
    const MatrixPlace place(state_panel(), true);
#pragma unroll
    for (int k = 0; k < N / 16; ++k) {
      uint32_t state[4], C[4];
      packed(state, k);
#pragma unroll
      for (int block = 0; block < kTogether / kBlock; ++block) {
        device::load_matrix_x4(C, states_at(C_tile(chunk), place, first + block * kBlock, k));
        device::mma_16x8x16<T>(y[2 * block], state, {C[0], C[1]});
        device::mma_16x8x16<T>(y[2 * block + 1], state, {C[2], C[3]});
      }
    }
  }
}

template <class T, int N, bool kOutput>
__device__ void ForwardBlock<T, N, kOutput>::add_from_tokens(float (&y)[kTogether / 8][4],
                                                             const uint32_t (&x)[kBlocks][4],
                                                             const Chunk& chunk, int first) {
  const uint32_t tile = mix_tile(chunk, unit_);
  if constexpr (kWarpgroups) {
    const uint64_t mix = device::swizzled_operand(tile, 16, 1024);
    device::begin_products();
#pragma unroll
    for (int j = 0; j < kBlocks; ++j) {
      device::warpgroup_mma<T, false>(y, x[j], device::operand_at(mix, j * 32));
    }
    device::end_products();
  } else {
    const MatrixPlace place(mix_panel(), true);
#pragma unroll
    for (int block = 0; block < kTogether / kBlock; ++block) {
      const int last = first / kBlock + block;
#pragma unroll
      for (int j = 0; j <= last; ++j) {
        uint32_t mix[4];
        device::load_matrix_x4(mix, tile + last * kBlock * 128 + place.at(j));
        device::mma_16x8x16<T>(y[2 * block], x[j], {mix[0], mix[1]});
        device::mma_16x8x16<T>(y[2 * block + 1], x[j], {mix[2], mix[3]});
      }
    }
  }
}

template <class T, int N, bool kOutput>
__device__ void ForwardBlock<T, N, kOutput>::weigh(uint32_t (&to)[kBlocks][4],
                                                   const uint32_t (&x)[kBlocks][4], const Decays& d,
                                                   bool rest) {
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 weight = pair_of(d.weight, j * kBlock + i / 2 * 8);
      float2 own = device::unpack_pair<T>(x[j][i]);
      own.x *= weight.x, own.y *= weight.y;
      to[j][i] = device::pack_pair<T>(own.x, own.y);
      if (rest) {
        const float2 rounded = device::unpack_pair<T>(to[j][i]);
        to[j][i] = device::pack_pair<T>(own.x - rounded.x, own.y - rounded.y);
      }
    }
  }
}

template <class T, int N, bool kOutput>
__device__ void ForwardBlock<T, N, kOutput>::add_to_state(const uint32_t (&x)[kBlocks][4],
                                                          const Chunk& chunk, bool rest) {
  uint32_t weighted[kBlocks][4];
  weigh(weighted, x, decays(chunk), rest);
  if constexpr (kWarpgroups) {
    constexpr int kPart = N < 128 ? N : 128;  // states of a product
    const uint64_t B = device::swizzled_operand(B_tile(chunk), kPanelBytes, 1024);
    device::begin_products();
#pragma unroll
    for (int part = 0; part < N / kPart; ++part) {
      auto& states = reinterpret_cast<float(&)[kPart / 8][4]>(h[part * kPart / 8]);
#pragma unroll
      for (int j = 0; j < kBlocks; ++j) {
        device::warpgroup_mma<T, true>(
            states, weighted[j],
            device::operand_at(B, part * kPart / 64 * kPanelBytes + j * kBlock * 128));
      }
    }
    device::end_products();
  } else {
    const MatrixPlace place(state_panel(), false);
#pragma unroll
    for (int j = 0; j < kBlocks; ++j) {
#pragma unroll
      for (int k = 0; k < N / 16; ++k) {
        uint32_t B[4];
        device::load_matrix_x4_transposed(B, states_at(B_tile(chunk), place, j * kBlock, k));
        device::mma_16x8x16<T>(h[2 * k], weighted[j], {B[0], B[1]});
        device::mma_16x8x16<T>(h[2 * k + 1], weighted[j], {B[2], B[3]});
      }
    }
  }
}

}  // namespace hax::ssd
