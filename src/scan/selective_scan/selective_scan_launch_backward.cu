#include "core/dispatch.hpp"
#include "device/launch.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_states.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_sums.cuh"

namespace hax::selective_scan {
namespace {

template <class S>
bool vectors(const Inputs& in, const Tensor& tensor) {
  // A block's channels start where its group does.
  return in.groups > 0 && in.channels / in.groups % S::kElements == 0 &&
         device::moves_in_vectors<S::kElements>(tensor);
}

template <class S>
void launch_scans(const device::Launcher& launch, const BackwardParams& p,
                  const CudaBackwardPlan& plan) {
  const BackwardAccess access = {
      vectors<S>(p, p.u),  vectors<S>(p, p.delta),
      vectors<S>(p, p.z),  vectors<S>(p, p.dy),
      vectors<S>(p, p.du), vectors<S>(p, p.ddelta),
      vectors<S>(p, p.dz), device::moves_in_vectors<2>(p.B) && device::moves_in_vectors<2>(p.C)};
  const int64_t blocks = p.groups * plan.per_group;
  launch(backward_states_kernel<S>, p.batch * plan.walks * blocks, S::kThreads, 0, p, plan, access);
  if (plan.segments > 1) {
    launch(backward_carry_kernel, ceil_div(p.batch * plan.numbers, kCarryThreads), kCarryThreads, 0,
           p.batch, plan);
  }
  launch(backward_kernel<S>, p.batch * plan.segments * p.groups * plan.slices, S::kThreads,
         sizeof(BackwardShared<S>), p, plan, access);
}

}  // namespace

void cuda_backward(const BackwardParams& p, const CudaBackwardPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Backward::name);
  dispatch_float(p.u.type, [&](auto type) {
    using T = typename decltype(type)::type;
    if (plan.warps == kFewWarps) {
      launch_scans<BackwardShape<T, kFewWarps>>(launch, p, plan);
    } else {
      launch_scans<BackwardShape<T, kManyWarps>>(launch, p, plan);
    }
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
