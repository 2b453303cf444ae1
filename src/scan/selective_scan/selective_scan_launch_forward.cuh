// Launches of the forward kernel, with outputs or for the states alone.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_forward.cuh"
#include "scan/selective_scan/selective_scan_launch.cuh"

namespace hax::selective_scan {

template <class S, bool kOutput>
void launch_forward(const device::Launcher& launch, const ForwardParams& p, const Checkpoints& given,
                    int ring) {
  const auto chunks = [&](const Tensor& tensor) {
    return tensor.stride[1] * int64_t{sizeof(typename S::T)} * ring * S::kTokens;
  };
  const auto strides = [&](const Tensor& tensor) {
    return Strides{tensor.stride[1] * int64_t{sizeof(typename S::T)} * S::kLanes, chunks(tensor)};
  };
  const int width = ForwardShared<S>::kWarps / ring * S::kWidth;
  const ForwardLayout layout = {.blocks = blocks_of_channels(p, width),
                                .ring = ring,
                                .u = strides(p.u),
                                .delta = strides(p.delta),
                                .z = strides(p.z ? p.z : p.u),
                                .y = strides(p.y),
                                .B = chunks(p.B),
                                .C = chunks(p.C)};
  launch(forward_kernel<S, kOutput>, p.sequences.count() * layout.blocks,
         ForwardShared<S>::kThreads, sizeof(ForwardShared<S>), p, given, layout);
}

// Whether S's kernel can serve the tensors.
template <class S>
bool serves(const ForwardParams& p) {
  constexpr int kChannels = S::kChannels;
  if (!S::kVectors) return true;
  return p.states == S::kAllStates && states_in_vectors<ChunkStates<S>::kVector>(p) &&
         channels_in_vectors<kChannels>(p, p.u) && channels_in_vectors<kChannels>(p, p.delta) &&
         channels_in_vectors<kChannels>(p, p.z) && channels_in_vectors<kChannels>(p, p.y);
}

template <class T, bool kOutput>
void dispatch_forward(const device::Launcher& launch, const ForwardParams& p,
                      const Checkpoints& given) {
  const int64_t scans = p.sequences.count() * p.channels;
  dispatch_split(choose_forward_split(p.states), [&](auto lanes, auto states) {
    constexpr int kTokens = cuda_forward_tokens(lanes.value);
    using Any = WarpShape<T, lanes.value, states.value, 1, kTokens, false>;
    const int ring = given ? 1 : choose_forward_ring(ceil_div(scans, Any::kWidth));
    if constexpr (lanes.value == 4) {
      // Two channels a lane read B and C once for both.
      using Pairs = WarpShape<T, 4, 4, 2, 4, true>;
      if (scans >= kForwardPairScans && serves<Pairs>(p)) {
        return launch_forward<Pairs, kOutput>(launch, p, given, 1);
      }
      using Vectors = WarpShape<T, 4, 4, 1, kTokens, true>;
      if (serves<Vectors>(p)) return launch_forward<Vectors, kOutput>(launch, p, given, ring);
    }
    launch_forward<Any, kOutput>(launch, p, given, ring);
  });
}

}  // namespace hax::selective_scan
