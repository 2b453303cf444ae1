#include "scan/selective_scan/selective_scan_kernel_step.cuh"
#include "scan/selective_scan/selective_scan_launch.cuh"

namespace hax::selective_scan {
namespace {

constexpr int kStepSequences = 2;

}  // namespace

void cuda_step(const StepParams& p, void* stream) {
  const device::Launcher launch(p.device, stream, Step::name);
  dispatch_float(p.u.type, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_split(choose_cuda_split(p.states, p.batch * p.channels), [&](auto lanes, auto states) {
      using S = Shape<T, lanes.value, states.value, 1, 32>;
      const bool vectors = p.states == S::kAllStates && states_in_vectors<S::kStates>(p);
      const int64_t blocks = blocks_of_channels(p, S::kWidth);
      launch(step_kernel<S, kStepSequences>, ceil_div(p.batch, int64_t{kStepSequences}) * blocks,
             S::kThreads, 0, p, vectors, blocks);
    });
  });
}

}  // namespace hax::selective_scan
