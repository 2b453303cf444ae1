// The states of a span's chunks.
#pragma once

#include "scan/ssd/ssd_kernel_span_block.cuh"

namespace hax::ssd {

template <class T, int Pairs, Pass kPass>
__device__ void SpanBlock<T, Pairs, kPass>::add_up() const {
  const MatrixPlace B_place(Panel{4}, false), x_place(Panel{2 * Pairs}, true);
  const uint32_t B_tile = memory_.B(chunk_), x_tile = memory_.x(chunk_, unit_);
  const float* const weights = memory_.decays(chunk_, unit_).weight;
  float sums[Pairs][kLeastStates / 8][4] = {};
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    uint32_t B[2][4];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      device::load_matrix_x4_transposed(B[k], B_tile + j * kBlock * 64 + B_place.at(k));
    }
#pragma unroll
    for (int q = 0; q < Pairs; ++q) {
      uint32_t x[4], weighted[4];
      device::load_matrix_x4_transposed(x, x_tile + j * kBlock * Pairs * 32 + x_place.at(q));
#pragma unroll 1
      for (int part = 0; part < (split_ ? 2 : 1); ++part) {
        weigh_inputs<T>(weighted, x, weights + j * kBlock, part);
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          device::mma_16x8x16<T>(sums[q][2 * k], weighted, {B[k][0], B[k][1]});
          device::mma_16x8x16<T>(sums[q][2 * k + 1], weighted, {B[k][2], B[k][3]});
        }
      }
    }
  }
  const int lane = threadIdx.x % device::kWarp, r = lane / 4, c = lane % 4;
  float* const to = memory_.state(chunk_, unit_) + r * kStateStride + 2 * c;
#pragma unroll
  for (int q = 0; q < Pairs; ++q) {
#pragma unroll
    for (int i = 0; i < kLeastStates / 8; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float2*>(to + (16 * q + 8 * half) * kStateStride + 8 * i) = {
            sums[q][i][2 * half], sums[q][i][2 * half + 1]};
      }
    }
  }
}

template <class T, int Pairs, Pass kPass>
__device__ void SpanBlock<T, Pairs, kPass>::pass_state() {
  constexpr int kQuads = kLeastStates / 4, kOfUnit = Memory::kRows * kQuads;
  for (int i = threadIdx.x; i < block_.count * kOfUnit; i += blockDim.x) {
    const int unit = i / kOfUnit, own = i / kQuads % Memory::kRows, n = i % kQuads * 4;
    const int place = own * kStateStride + n;
    float4& carry = *reinterpret_cast<float4*>(memory_.carry(unit) + place);
    float4 h = carry;
#pragma unroll 4
    for (int k = 0; k < plan_.chunks; ++k) {
      float4& state = *reinterpret_cast<float4*>(memory_.state(k, unit) + place);
      const float4 added = state;
      const float whole = memory_.decays(k, unit).whole;
      state = h;
      h = {h.x * whole + added.x, h.y * whole + added.y, h.z * whole + added.z,
           h.w * whole + added.w};
    }
    carry = h;
  }
  if (threadIdx.x < plan_.units) {
    for (int k = 0; k < plan_.chunks; ++k) {
      memory_.piece_decay(threadIdx.x) *= memory_.decays(k, threadIdx.x).whole;
    }
  }
}

template <class T, int Pairs, Pass kPass>
__device__ void SpanBlock<T, Pairs, kPass>::store_checkpoints(const Sequences::Range& range,
                                                              int64_t t, int64_t end) {
  const Tensor& states = p_.checkpoints.states;
  for (int k = 0; k < plan_.chunks; ++k) {
    const Chunk chunk = chunk_at(t, end, k);
    const int64_t done = chunk.begin + chunk.tokens;
    if (chunk.tokens == 0 || done % p_.checkpoints.every != 0) continue;
    const int64_t offset = p_.checkpoints.offset(range, done);
    const bool last = k + 1 == plan_.chunks;
    each_element([&](int unit) { return last ? memory_.carry(unit) : memory_.state(k + 1, unit); },
                 [&](float& value, int, int head, int row, int n) {
                   device::store_any(states, offset + at(states, 2, head, row, n), value);
                 });
  }
}

}  // namespace hax::ssd
