#include "core/dispatch.hpp"
#include "device/launch.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_states.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_sums.cuh"

namespace hax::selective_scan {
namespace {

// Whether each tensor's elements can be moved in vectors, from a group's first channel on, and its tokens lie
// less than 2 GiB apart.
bool all_vectors(const BackwardParams& p) {
  constexpr int64_t kFarthest = std::numeric_limits<int32_t>::max();
  const auto near = [&](const Tensor& t) {
    return !t || t.stride[1] * size_of(t.type) == static_cast<int32_t>(t.stride[1] * size_of(t.type));
  };
  const auto good = [&](const Tensor& t) { return device::moves_in_vectors<4>(t) && near(t); };
  return p.channels / larger(1, p.groups) % 4 == 0 && p.states % 2 == 0 && good(p.u) &&
         good(p.delta) && good(p.dy) && good(p.z) && good(p.du) && good(p.ddelta) && good(p.dz) &&
         device::moves_in_vectors<2>(p.B) && near(p.B) && device::moves_in_vectors<2>(p.C) &&
         near(p.C) && p.groups * p.states * 8 <= kFarthest;
}

BackwardSteps steps_of(const BackwardParams& p) {
  const auto step = [](const Tensor& t) {
    return static_cast<int32_t>(t.stride[1] * size_of(t.type));
  };
  return {{step(p.u), step(p.delta), step(p.dy), step(p.z), step(p.du), step(p.ddelta), step(p.dz)},
          {step(p.B), step(p.C)},
          static_cast<int32_t>(p.groups * p.states * 8)};
}

template <class S>
void launch_scans(const device::Launcher& launch, const BackwardParams& p,
                  const CudaBackwardPlan& plan) {
  const BackwardSteps steps = steps_of(p);
  const int64_t blocks = p.groups * plan.per_group;
  launch(backward_states_kernel<S>, p.batch * plan.walks * blocks, S::kThreads, 0, p, plan, steps);
  if (plan.segments > 1) {
    launch(backward_carry_kernel, ceil_div(p.batch * plan.numbers, kCarryThreads), kCarryThreads, 0,
           p.batch, plan);
  }
  launch(backward_kernel<S>, p.batch * plan.segments * p.groups * plan.slices, S::kThreads,
         sizeof(BackwardShared<S>), p, plan, steps);
}

template <class T, int Warps>
void launch_scans(const device::Launcher& launch, const BackwardParams& p,
                  const CudaBackwardPlan& plan) {
  if (all_vectors(p)) {
    launch_scans<BackwardShape<T, Warps, true>>(launch, p, plan);
  } else {
    launch_scans<BackwardShape<T, Warps, false>>(launch, p, plan);
  }
}

}  // namespace

void cuda_backward(const BackwardParams& p, const CudaBackwardPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Backward::name);
  dispatch_float(p.u.type, [&](auto type) {
    using T = typename decltype(type)::type;
    if (plan.warps == kFewWarps) {
      launch_scans<T, kFewWarps>(launch, p, plan);
    } else {
      launch_scans<T, kManyWarps>(launch, p, plan);
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
