// How the selective scan's CUDA kernels share out a channel's states: `lanes` lanes of a warp hold `states` of
// them each.
#pragma once

#include "core/tensor.hpp"

namespace hax::selective_scan {

struct CudaSplit {
  int lanes, states;
  bool operator==(const CudaSplit&) const = default;
};

// What step and, with other tokens a chunk, forward have kernels for.
inline constexpr CudaSplit kCudaSplits[] = {{4, 4}, {8, 2}, {8, 4}, {16, 4}, {32, 4}, {32, 8}};

// scans: channels of all sequences, which run side by side.
inline CudaSplit choose_cuda_split(int64_t states, int64_t scans) {
  constexpr int64_t kEnoughOfFour = 1024;
  if (states <= 16) return scans >= kEnoughOfFour ? CudaSplit{4, 4} : CudaSplit{8, 2};
  for (const CudaSplit split : kCudaSplits) {
    if (split.lanes * split.states >= states) return split;
  }
  return {32, 8};
}

// Forward: tokens of a chunk. A lane holds 32 decays of a chunk; with fewer channels and so more lanes for
// each, chunks are longer, which matters as the state then goes from warp to warp less often.
inline constexpr int cuda_forward_tokens(CudaSplit split) {
  return split.lanes * split.states <= 32 ? 32 / split.states : split.lanes < 32 ? 8 : 4;
}

// Forward: scans from which on a lane takes two channels.
inline constexpr int64_t kForwardPairScans = 28 * 1024;

// Forward: warps that share channels and take turns at chunks. `warps`: those that all channels need.
inline int choose_forward_ring(int64_t warps) {
  constexpr int64_t kEnoughWarps = 1536;
  constexpr int kLargest = 8;
  int ring = 1;
  while (ring < kLargest && warps * ring < kEnoughWarps) ring *= 2;
  return ring;
}

// Forward's segments of a sequence, of so many tokens each, and the walks of a segment; one: sequences are not cut.
struct CudaForwardPlan {
  int64_t segments = 1, segment = 0, walks = 0;
  float *made = nullptr, *carried = nullptr, *elapsed = nullptr;
};

// Warps of 16 channels that 132 multiprocessors hold, and the fewest tokens of a segment. Below both of the other two
// rings take less: 2.5 ms both at B1 L65536 D4096 (H100), 0.67 against 0.90 at L16384; 1.20 against 0.71 at L131072 D256.
inline constexpr int64_t kSegmentWarps = 2112, kFewestSegmentTokens = 2048;
inline constexpr int64_t kFewestSegmentedTokens = 96 * 1024;
inline constexpr int64_t kFewestSegmentedElements = int64_t{1} << 28;
inline constexpr int64_t kSegmentWalk = 256;  // tokens

}  // namespace hax::selective_scan
