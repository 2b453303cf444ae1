// What the launches of the selective scan share.
#pragma once

#include "core/dispatch.hpp"
#include "device/element.cuh"
#include "device/launch.cuh"
#include "scan/selective_scan/selective_scan.hpp"

namespace hax::selective_scan {

// Whether V channels of a block, which starts where its group does, can be moved together.
template <int V>
bool channels_in_vectors(const Inputs& in, const Tensor& tensor) {
  return in.groups > 0 && in.channels / in.groups % V == 0 && device::moves_in_vectors<V>(tensor);
}

// Whether V states of B and C can.
template <int V>
bool states_in_vectors(const Inputs& in) {
  return in.states % V == 0 && device::moves_in_vectors<V>(in.B) &&
         device::moves_in_vectors<V>(in.C);
}

// Calls f(lanes, states) with integral constants for a split of kCudaSplits.
template <size_t i = 0, class F>
void dispatch_split(CudaSplit split, F&& f) {
  if constexpr (i < std::size(kCudaSplits)) {
    if (kCudaSplits[i] == split) {
      f(std::integral_constant<int, kCudaSplits[i].lanes>{},
        std::integral_constant<int, kCudaSplits[i].states>{});
    } else {
      dispatch_split<i + 1>(split, f);
    }
  }
}

}  // namespace hax::selective_scan
