#include "scan/selective_scan/selective_scan_kernel_forward.cuh"
#include "scan/selective_scan/selective_scan_launch.cuh"

namespace hax::selective_scan {
namespace {

template <class Scan>
void launch_forward(const device::Launcher& launch, const ForwardParams& p, int ring) {
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
         Scan::kWarps * sizeof(typename Scan::Shared), p, layout);
}

// Whether rows of B and C are whole vectors of S's kernel.
template <class S>
bool rows_in_vectors(const ForwardParams& p) {
  return p.states == S::kAllStates && states_in_vectors<ChunkStates<S>::kVector>(p);
}

// Whether two channels of every tensor can be moved at once.
bool channels_in_pairs(const ForwardParams& p) {
  return channels_in_vectors<2>(p, p.u) && channels_in_vectors<2>(p, p.delta) &&
         channels_in_vectors<2>(p, p.z) && channels_in_vectors<2>(p, p.y);
}

template <class T>
void dispatch_forward(const device::Launcher& launch, const ForwardParams& p) {
  const int64_t scans = p.sequences.count() * p.channels;
  // Two channels a lane read B and C once for both.
  using Pairs = WarpShape<T, 4, 4, 2, 4, true>;
  if (scans >= kForwardPairScans && rows_in_vectors<Pairs>(p) && channels_in_pairs(p) &&
      p.checkpoints.every % Pairs::kTokens == 0) {
    constexpr int64_t kWide = 1024;
    if (p.channels / p.groups >= kWide) {
      return launch_forward<PairsScan<Pairs, 16>>(launch, p, 1);
    }
    return launch_forward<PairsScan<Pairs, 4>>(launch, p, 1);
  }
  dispatch_split(choose_cuda_split(p.states, scans), [&](auto lanes, auto states) {
    constexpr CudaSplit kSplit{lanes.value, states.value};
    constexpr int kTokens = cuda_forward_tokens(kSplit);
    using Any = WarpShape<T, kSplit.lanes, kSplit.states, 1, kTokens, false>;
    const int ring = choose_forward_ring(ceil_div(scans, int64_t{Any::kWidth}));
    if constexpr (Any::kAllStates == 16 && sizeof(T) == 2) {
      using Vectors = WarpShape<T, kSplit.lanes, kSplit.states, 1, kTokens, true>;
      if (rows_in_vectors<Vectors>(p) && channels_in_pairs(p)) {
        return launch_forward<RingScan<Vectors>>(launch, p, ring);
      }
    }
    launch_forward<RingScan<Any>>(launch, p, ring);
  });
}

}  // namespace

void cuda_forward(const ForwardParams& p, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  dispatch_float(p.u.type,
                 [&](auto type) { dispatch_forward<typename decltype(type)::type>(launch, p); });
}

}  // namespace hax::selective_scan
