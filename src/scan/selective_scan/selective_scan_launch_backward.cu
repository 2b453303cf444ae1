#include "scan/scan_blocks.hpp"
#include "scan/selective_scan/selective_scan_kernel_backward.cuh"
#include "scan/selective_scan/selective_scan_launch.cuh"

namespace hax::selective_scan {
namespace {

template <class S>
void launch_backward(const device::Launcher& launch, const BackwardParams& p,
                     const CudaBackwardPlan& plan, const Checkpoints& starts) {
  const auto vectors = [&](const Tensor& tensor) {
    return channels_in_vectors<S::kVector>(p, tensor);
  };
  const BackwardAccess access = {vectors(p.u),
                                 vectors(p.delta),
                                 vectors(p.z),
                                 vectors(p.dy),
                                 vectors(p.du),
                                 vectors(p.ddelta),
                                 vectors(p.dz),
                                 states_in_vectors<device::kVectorElements<typename S::T>>(p)};
  launch(backward_kernel<S>, plan.runs * p.groups * plan.slices, S::kThreads,
         sizeof(BackwardShared<S>), p, plan, starts, access);
}

// The states where tiles start, as a forward with checkpoints writes them.
ForwardParams states_forward(const BackwardParams& p, const Checkpoints& starts) {
  ForwardParams forward;
  static_cast<Inputs&>(forward) = p;
  forward.sequences = p.sequences;
  forward.initial_state = p.initial_state;
  forward.checkpoints = starts;
  return forward;
}

}  // namespace

void cuda_backward(const BackwardParams& p, const CudaBackwardPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Backward::name);
  const int64_t tile = cuda_backward_tile(plan.split);
  Checkpoints starts;
  starts.every = tile;
  Tensor& states = starts.states;
  states.data = plan.states;
  states.type = Type::fp32;
  states.ndim = 4;
  const int64_t shape[] = {p.batch, p.length / tile, p.channels, p.states};
  int64_t stride = 1;
  for (int axis = 3; axis >= 0; --axis) {
    states.shape[axis] = shape[axis];
    states.stride[axis] = stride;
    stride *= shape[axis];
  }
  if (p.length > tile) cuda_states(states_forward(p, starts), p.checkpoints, stream);
  dispatch_float(p.u.type, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_split(plan.split, [&](auto lanes, auto k) {
      constexpr CudaSplit split{lanes.value, k.value};
      launch_backward<Shape<T, lanes.value, k.value, 1, cuda_backward_tile(split)>>(launch, p, plan,
                                                                                    starts);
    });
    if (p.dB || p.dC) {
      launch(reduce_shares_kernel<T>,
             ceil_div(p.batch * p.length * p.groups * p.states, kReduceThreads), kReduceThreads, 0,
             p, plan);
    }
    if (p.dA || p.dD || p.ddelta_bias) {
      launch(reduce_sums_kernel, ceil_div((p.states + 2) * p.channels, kReduceThreads),
             kReduceThreads, 0, p, plan);
    }
  });
}

}  // namespace hax::selective_scan
