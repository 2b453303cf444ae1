#include "core/dispatch.hpp"
#include "device/launch.cuh"
#include "scan/scan_blocks.hpp"
#include "scan/selective_scan/selective_scan_cuda.hpp"
#include "scan/selective_scan/selective_scan_kernel_forward.cuh"
#include "scan/selective_scan/selective_scan_kernel_step.cuh"

namespace hax::selective_scan {
namespace {

constexpr int kForwardTile = 32;
constexpr int kStatesTile = 16;  // where states alone are wanted, every 16 or 32 tokens

template <class S>
bool vectors(const Inputs& in, const Tensor& tensor) {
  // A block's channels start where its group does.
  return in.groups > 0 && in.channels / in.groups % S::kVector == 0 &&
         device::moves_in_vectors<S::kVector>(tensor);
}

// Whether rows of B and C can be moved in the widest vectors.
template <class T>
bool states_in_vectors(const Inputs& in) {
  constexpr int V = device::kVectorElements<T>;
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

template <class S, bool kOutput>
void launch_forward(const device::Launcher& launch, const ForwardParams& p,
                    const Checkpoints& given) {
  const ForwardAccess access = {vectors<S>(p, p.u), vectors<S>(p, p.delta), vectors<S>(p, p.z),
                                vectors<S>(p, p.y), states_in_vectors<typename S::T>(p)};
  const int64_t blocks = blocks_of_channels(p, S::kWidth);
  launch(forward_kernel<S, kOutput>, p.sequences.count() * blocks, S::kThreads,
         sizeof(ForwardShared<S>), p, given, access, blocks);
}

// Forward with y, or for the states alone.
template <class T, bool kOutput>
void dispatch_forward(const device::Launcher& launch, const ForwardParams& p,
                      const Checkpoints& given) {
  const int64_t scans = p.sequences.count() * p.channels;
  dispatch_split(choose_cuda_split(p.states, scans), [&](auto lanes, auto states) {
    constexpr int kTile = kOutput || lanes.value == 32 ? kForwardTile : kStatesTile;
    if constexpr (lanes.value == 4) {
      // Two channels a lane read B and C once for both.
      constexpr int64_t kEnoughScans = 28 * 1024;
      if (scans >= kEnoughScans) {
        return launch_forward<Shape<T, lanes.value, states.value, 2, kTile>, kOutput>(launch, p,
                                                                                      given);
      }
    }
    launch_forward<Shape<T, lanes.value, states.value, 1, kTile>, kOutput>(launch, p, given);
  });
}

}  // namespace

void cuda_forward(const ForwardParams& p, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  dispatch_float(p.u.type, [&](auto type) {
    dispatch_forward<typename decltype(type)::type, true>(launch, p, {});
  });
}

void cuda_step(const StepParams& p, void* stream) {
  const device::Launcher launch(p.device, stream, Step::name);
  dispatch_float(p.u.type, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_split(choose_cuda_split(p.states, p.batch * p.channels), [&](auto lanes, auto states) {
      using S = Shape<T, lanes.value, states.value, 1, kForwardTile>;
      const int64_t blocks = blocks_of_channels(p, S::kWidth);
      launch(step_kernel<S>, p.batch * blocks, S::kThreads, 0, p, blocks);
    });
  });
}

}  // namespace hax::selective_scan
