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

// Forward. Tokens of a chunk; scans from which on a lane takes two channels.
inline constexpr int cuda_forward_tokens(int lanes) { return lanes < 32 ? 8 : 4; }
inline constexpr int64_t kForwardPairScans = 28 * 1024;

inline CudaSplit choose_forward_split(int64_t states) {
  return choose_cuda_split(states, int64_t{1} << 62);
}

// Warps that share channels and take turns at chunks. `warps`: those that all channels need.
inline int choose_forward_ring(int64_t warps) {
  constexpr int64_t kEnoughWarps = 1536;
  constexpr int kLargest = 8;
  int ring = 1;
  while (ring < kLargest && warps * ring < kEnoughWarps) ring *= 2;
  return ring;
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
