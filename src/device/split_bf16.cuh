// Products on tensor cores with more digits than bf16 has: an fp32 number is the sum of up to three
// of bf16, and the product of two such sums that of the pieces' products, the smallest left out.
#pragma once

#include <cuda_bf16.h>

#include "device/mma.cuh"

namespace hax::device {

// Neighbours a (low half) and b in pieces, the greatest first. One piece keeps 8 bits, three keep
// all 24.
template <int Pieces>
__device__ void split_bf16(uint32_t (&pieces)[Pieces], float a, float b) {
#pragma unroll
  for (int i = 0; i < Pieces; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
    memcpy(&pieces[i], &pair, sizeof(pair));
    a -= __low2float(pair);
    b -= __high2float(pair);
  }
}

// high + low += a b, `high` with the greatest pieces' product alone, so that few roundings reach
// it.
template <int PiecesA, int PiecesB>
__device__ void mma_pieces(float (&high)[4], float (&low)[4], const uint32_t (&a)[PiecesA][4],
                           const uint32_t (&b)[PiecesB][2]) {
  constexpr int kLast = PiecesA > PiecesB ? PiecesA : PiecesB;
#pragma unroll
  for (int i = 0; i < PiecesA; ++i) {
#pragma unroll
    for (int j = 0; j < PiecesB; ++j) {
      if (i + j < kLast) mma_16x8x16<bf16>(i + j == 0 ? high : low, a[i], b[j]);
    }
  }
}

}  // namespace hax::device
