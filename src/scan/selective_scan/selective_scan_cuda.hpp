// How the selective scan's CUDA kernels share out a channel's states: `lanes` lanes of a warp hold `states` of
// them each.
#pragma once

#include "core/tensor.hpp"

namespace hax::selective_scan {

struct CudaSplit {
  int lanes, states;
  bool operator==(const CudaSplit&) const = default;
};

// All that there are kernels for.
inline constexpr CudaSplit kCudaSplits[] = {{4, 4}, {8, 2}, {8, 4}, {16, 4}, {32, 4}, {32, 8}};

// scans: channels of all sequences, which run side by side. Where they are too few to fill a GPU with 4
// lanes each, 8 take part.
inline CudaSplit choose_cuda_split(int64_t states, int64_t scans) {
  constexpr int64_t kEnoughScans = 6 * 1024;
  if (states <= 16) return scans >= kEnoughScans ? CudaSplit{4, 4} : CudaSplit{8, 2};
  for (const CudaSplit split : kCudaSplits) {
    if (split.lanes * split.states >= states) return split;
  }
  return kCudaSplits[5];
}

// Backward: threads of a block, the channels it owns at a time, tokens between the states it starts from.
inline constexpr int kCudaBackwardThreads = 256;
inline constexpr int cuda_backward_width(CudaSplit split) {
  return kCudaBackwardThreads / split.lanes;
}
inline constexpr int cuda_backward_tile(CudaSplit split) { return split.lanes == 32 ? 32 : 16; }

// A block takes every `slices`-th block of channels of a group and one of `runs` ranges of sequences.
struct CudaBackwardPlan {
  CudaSplit split;
  int64_t slices, runs;
  float* states;  // (B, floor(L / tile), D, N): where tiles start
  float* shares;  // (slices, B, L, G, 2, N): what each slice adds to dB and dC
  float* sums;    // (runs, N + 2, D): what each range adds to dA, dD, ddelta_bias
};

}  // namespace hax::selective_scan
