#include "scan/selective_scan/selective_scan_kernel_step.cuh"
#include "scan/selective_scan/selective_scan_launch.cuh"

namespace hax::selective_scan {
namespace {

constexpr int kStepSequences = 2;  // of a block

template <class S>
bool moves_in_vectors(const StepParams& p) {
  constexpr int kFloats = smaller(S::kStates, 4);
  return p.states == S::kAllStates && states_in_vectors<S::kStates>(p) &&
         p.state.type == Type::fp32 && device::moves_in_vectors<kFloats>(p.state) &&
         device::moves_in_vectors<kFloats>(p.A);
}

}  // namespace

void cuda_step(const StepParams& p, void* stream) {
  const device::Launcher launch(p.device, stream, Step::name);
  dispatch_float(p.u.type, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_split(choose_cuda_split(p.states, p.batch * p.channels), [&](auto lanes, auto states) {
      using S = Shape<T, lanes.value, states.value, 1, 32>;
      const int64_t blocks = blocks_of_channels(p, S::kWidth);
      const auto kernel = moves_in_vectors<S>(p) ? step_kernel<S, kStepSequences, true>
                                                 : step_kernel<S, 1, false>;
      const int64_t sequences = moves_in_vectors<S>(p) ? kStepSequences : 1;
      launch(kernel, ceil_div(p.batch, sequences) * blocks, S::kThreads, 0, p,
             static_cast<unsigned>(blocks));
    });
  });
}

}  // namespace hax::selective_scan
