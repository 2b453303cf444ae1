#include "core/dispatch.hpp"
#include "device/launch.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_states.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_sums.cuh"

namespace hax::selective_scan {
namespace {

// Whether each tensor can be moved in vectors of 16 bytes, from a group's first channel on, and its tokens lie
// less than 2 GiB apart.
template <class T>
bool all_vectors(const BackwardParams& p) {
  constexpr int kVector = device::kVectorElements<T>;
  const auto good = [](const Tensor& t) {
    return !t ||
           (device::moves_in_vectors<kVector>(t) &&
            t.stride[1] * size_of(t.type) == static_cast<int32_t>(t.stride[1] * size_of(t.type)));
  };
  return p.channels / larger(1, p.groups) % kVector == 0 && good(p.u) && good(p.delta) &&
         good(p.dy) && good(p.z) && good(p.du) && good(p.ddelta) && good(p.dz) && good(p.B) &&
         good(p.C);
}

template <class S>
void launch_scans(const device::Launcher& launch, const BackwardParams& p,
                  const CudaBackwardPlan& plan) {
  const int64_t blocks = p.groups * plan.per_group;
  launch(backward_states_kernel<S>, p.batch * plan.walks * blocks, S::kThreads, 0, p, plan);
  launch(backward_kernel<S>, p.batch * plan.segments * p.groups * plan.slices, S::kThreads,
         sizeof(BackwardShared<S>), p, plan);
}

template <class T>
void dispatch_scans(const device::Launcher& launch, const BackwardParams& p,
                    const CudaBackwardPlan& plan) {
  // With many warps there is no shared memory left to fetch a tile ahead.
  if (plan.warps == kManyWarps) {
    return launch_scans<BackwardShape<T, kManyWarps, false, false>>(launch, p, plan);
  }
  if (!all_vectors<T>(p)) {
    return launch_scans<BackwardShape<T, kFewWarps, false, false>>(launch, p, plan);
  }
  if (plan.state_tiles > 1) {
    return launch_scans<BackwardShape<T, kFewWarps, false, true>>(launch, p, plan);
  }
  launch_scans<BackwardShape<T, kFewWarps, true, true>>(launch, p, plan);
}

}  // namespace

void cuda_backward(const BackwardParams& p, const CudaBackwardPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Backward::name);
  dispatch_float(p.u.type, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_scans<T>(launch, p, plan);
    if (p.dB || p.dC) {
      launch(reduce_shares_kernel<T>,
             ceil_div(p.batch * p.length * p.groups * p.states, kReduceThreads), kReduceThreads, 0,
             p, plan);
    }
  });
  if (p.dA || p.dD || p.ddelta_bias) {
    launch(reduce_sums_kernel, ceil_div((p.states + 2) * p.channels, kSumsOfBlock), kReduceThreads,
           0, p, plan);
  }
  if (p.dinitial_state && (p.sequences.packed() || p.length == 0)) {
    launch(empty_sequences_kernel,
           ceil_div(p.sequences.count() * p.channels * p.states, kReduceThreads), kReduceThreads, 0,
           p);
  }
}

}  // namespace hax::selective_scan
