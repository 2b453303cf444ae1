// What a block of small heads' gradients keeps in shared memory.
#pragma once

#include "scan/ssd/ssd_kernel_backward_steps.cuh"
#include "scan/ssd/ssd_kernel_backward_sums.cuh"

namespace hax::ssd {

inline constexpr int kHeadWarps = 4, kHeadThreads = kHeadWarps * device::kWarp;

// The blocks of 16 x 16 pairs with t >= s, earlier tokens s first.
template <class S>
struct HeadBlocks {
  static constexpr int kBands = S::kTokens / 16, kCount = kBands * (kBands + 1) / 2;
  static __device__ constexpr int index(int i, int j) {
    return i * kBands - i * (i - 1) / 2 + j - i;
  }
  // First s and t of a block.
  static __device__ int2 place(int index) {
    int i = 0;
    while (index >= kBands - i) index -= kBands - i++;
    return {16 * i, 16 * (i + index)};
  }
};

template <class S>
struct HeadsShared {
  using T = typename S::T;
  static constexpr int Q = S::kTokens;
  struct Head {
    T x[Q * S::kWidthRow], g[Q * S::kWidthRow];
    T h[S::kWidth * S::kStateRow], dh[S::kWidth * S::kStateRow];
    uint4 dscores[HeadBlocks<S>::kCount][device::kWarp];  // a lane's part of a left operand
    float dt[Q], exponent[Q];
    // What pairs and states give to y . g: by t; by s without dt, with later tokens and with dh; a token with itself.
    float later[Q], earlier[2][Q], own[Q];
    T to_end[Q], from_start[Q];  // weights in dB, dC
  };
  T B[Q * S::kStateRow], C[Q * S::kStateRow];
  union {
    Head heads[kHeadWarps];
    T dscores[Q * S::kTokenRow];  // rows s
  };
};

}  // namespace hax::ssd
