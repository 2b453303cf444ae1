#include <algorithm>
#include <initializer_list>

#include "scan/selective_scan/selective_scan_kernel_forward.cuh"
#include "scan/selective_scan/selective_scan_launch.cuh"

namespace hax::selective_scan {
namespace {

Tensor compact_tensor(float* data, std::initializer_list<int64_t> shape) {
  Tensor tensor;
  tensor.data = data;
  tensor.type = Type::fp32;
  tensor.ndim = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), tensor.shape);
  int64_t stride = 1;
  for (int axis = tensor.ndim - 1; axis >= 0; --axis) {
    tensor.stride[axis] = stride;
    stride *= tensor.shape[axis];
  }
  return tensor;
}

// ring: warps that take turns.
template <class S>
ForwardLayout layout_of(const ForwardParams& p, int warps, int ring) {
  const auto chunks = [&](const Tensor& tensor) {
    return tensor.stride[1] * int64_t{sizeof(typename S::T)} * ring * S::kTokens;
  };
  const auto strides = [&](const Tensor& tensor) {
    return Strides{tensor.stride[1] * int64_t{sizeof(typename S::T)} * S::kLanes, chunks(tensor)};
  };
  ForwardLayout layout = {};
  layout.blocks = static_cast<unsigned>(blocks_of_channels(p, warps / ring * S::kWidth));
  layout.ring = ring;
  layout.u = strides(p.u);
  layout.delta = strides(p.delta);
  layout.z = strides(p.z ? p.z : p.u);
  layout.y = strides(p.y);
  layout.B = chunks(p.B);
  layout.C = chunks(p.C);
  layout.B_lanes = strides(p.B).lanes;
  return layout;
}

template <class Scan>
constexpr size_t kSharedBytes = Scan::kWarps * sizeof(typename Scan::Shared);

template <class Scan>
void launch_forward(const device::Launcher& launch, const ForwardParams& p, int ring) {
  const ForwardLayout layout = layout_of<typename Scan::S>(p, Scan::kWarps, ring);
  launch(forward_kernel<Scan>, p.sequences.count() * layout.blocks, kForwardThreads<Scan>,
         kSharedBytes<Scan>, p, layout);
}

template <class S, int kWarps>
void launch_segments(const device::Launcher& launch, const ForwardParams& p,
                     const CudaForwardPlan& plan) {
  using Alone = TensorScan<S, kWarps, true>;
  ForwardLayout layout = layout_of<S>(p, kWarps, 1);
  layout.segments = static_cast<unsigned>(plan.segments);
  layout.walks = static_cast<unsigned>(plan.walks);
  layout.segment = plan.segment;
  layout.walk = kSegmentWalk;
  const int64_t places = p.batch * plan.segments;
  layout.made = compact_tensor(plan.made, {places, p.channels, p.states});
  layout.carried = compact_tensor(plan.carried, {places, p.channels, p.states});
  layout.elapsed = compact_tensor(plan.elapsed, {places, plan.walks, p.channels});
  launch(segment_kernel<Alone>, places * layout.blocks, kForwardThreads<Alone>, kSharedBytes<Alone>,
         p, layout);
  launch(carry_kernel, ceil_div(p.batch * p.channels * p.states, int64_t{kCarryStates}),
         dim3(kCarryStates, kCarryRuns), 0, p, layout);
  using Carried = CarriedShape<typename S::T>;
  layout.blocks = static_cast<unsigned>(blocks_of_channels(p, Carried::kChannels));
  launch(carried_kernel<typename S::T>, places * layout.blocks, Carried::kThreads, 0, p, layout);
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
void dispatch_forward(const device::Launcher& launch, const ForwardParams& p,
                      const CudaForwardPlan& plan) {
  const int64_t scans = p.sequences.count() * p.channels;
  // Two channels a lane read B and C once for both.
  using Pairs = WarpShape<T, 4, 4, 2, std::is_same_v<T, bf16> ? 8 : 4, true>;
  if ((scans >= kForwardPairScans || plan.segments > 1) && rows_in_vectors<Pairs>(p) &&
      channels_in_pairs(p) && p.checkpoints.every % Pairs::kTokens == 0) {
    const auto launch_pairs = [&](auto warps) {
      constexpr int kWarps = warps.value;
      if constexpr (kTensor<Pairs>) {
        if (plan.segments > 1) return launch_segments<Pairs, kWarps>(launch, p, plan);
        launch_forward<TensorScan<Pairs, kWarps>>(launch, p, 1);
      } else {
        launch_forward<PairsScan<Pairs, kWarps>>(launch, p, 1);
      }
    };
    constexpr int64_t kWide = 1024, kWhole = 16 * Pairs::kWidth;
    const int64_t channels = p.channels / p.groups;
    if (channels >= kWide || channels % kWhole == 0) {
      return launch_pairs(std::integral_constant<int, 16>{});
    }
    return launch_pairs(std::integral_constant<int, 4>{});
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

void cuda_forward(const ForwardParams& p, const CudaForwardPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  dispatch_float(p.u.type, [&](auto type) {
    dispatch_forward<typename decltype(type)::type>(launch, p, plan);
  });
}

}  // namespace hax::selective_scan
