// Launches of the forward kernel, with outputs or for the states alone.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_forward.cuh"
#include "scan/selective_scan/selective_scan_launch.cuh"

namespace hax::selective_scan {

template <class Scan>
void launch_forward(const device::Launcher& launch, const ForwardParams& p, const Checkpoints& given,
                    int ring) {
  using S = typename Scan::S;
  const auto chunks = [&](const Tensor& tensor) {
    return tensor.stride[1] * int64_t{sizeof(typename S::T)} * ring * S::kTokens;
  };
  const auto strides = [&](const Tensor& tensor) {
    return Strides{tensor.stride[1] * int64_t{sizeof(typename S::T)} * S::kLanes, chunks(tensor)};
  };
  const int64_t blocks = blocks_of_channels(p, Scan::kWarps / ring * S::kWidth);
  const ForwardLayout layout = {.blocks = static_cast<unsigned>(blocks),
                                .ring = ring,
                                .u = strides(p.u),
                                .delta = strides(p.delta),
                                .z = strides(p.z ? p.z : p.u),
                                .y = strides(p.y),
                                .B = chunks(p.B),
                                .C = chunks(p.C)};
  launch(forward_kernel<Scan>, p.sequences.count() * blocks, kForwardThreads<Scan>,
         Scan::kWarps * sizeof(typename Scan::Shared), p, given, layout);
}

// Whether rows of B and C are whole vectors of S's kernel.
template <class S>
bool rows_in_vectors(const ForwardParams& p) {
  return p.states == S::kAllStates && states_in_vectors<ChunkStates<S>::kVector>(p);
}

// Whether two channels of every tensor can be moved at once and checkpoints fall between chunks.
template <class S>
bool serves_pairs(const ForwardParams& p, const Checkpoints& given) {
  return rows_in_vectors<S>(p) && channels_in_vectors<2>(p, p.u) &&
         channels_in_vectors<2>(p, p.delta) && channels_in_vectors<2>(p, p.z) &&
         channels_in_vectors<2>(p, p.y) && p.checkpoints.every % S::kTokens == 0 &&
         given.every % S::kTokens == 0;
}

template <class T, bool kOutput>
void dispatch_forward(const device::Launcher& launch, const ForwardParams& p,
                      const Checkpoints& given) {
  const int64_t scans = p.sequences.count() * p.channels;
  dispatch_split(choose_forward_split(p.states), [&](auto lanes, auto states) {
    constexpr int kTokens = cuda_forward_tokens(lanes.value);
    using Any = WarpShape<T, lanes.value, states.value, 1, kTokens, false>;
    const int ring = given ? 1 : choose_forward_ring(ceil_div(scans, int64_t{Any::kWidth}));
    if constexpr (lanes.value == 4) {
      using Pairs = WarpShape<T, 4, 4, 2, 4, true>;
      if (scans >= kForwardPairScans && serves_pairs<Pairs>(p, given)) {
        return launch_forward<PairsScan<Pairs, kOutput>>(launch, p, given, 1);
      }
      using Vectors = WarpShape<T, 4, 4, 1, kTokens, true>;
      if (rows_in_vectors<Vectors>(p)) {
        return launch_forward<RingScan<Vectors, kOutput>>(launch, p, given, ring);
      }
    }
    launch_forward<RingScan<Any, kOutput>>(launch, p, given, ring);
  });
}

}  // namespace hax::selective_scan
