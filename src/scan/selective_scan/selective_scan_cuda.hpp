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

}  // namespace hax::selective_scan
