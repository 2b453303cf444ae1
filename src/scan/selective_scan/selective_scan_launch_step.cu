#include "scan/selective_scan/selective_scan_kernel_step.cuh"
#include "scan/selective_scan/selective_scan_launch.cuh"

namespace hax::selective_scan {
namespace {

constexpr int kStepSequences = 1;  // of a block

// Whether a lane's states can be moved four at a time.
template <class S>
bool moves_in_vectors(const StepParams& p) {
  return p.states == S::kAllStates && states_in_vectors<4>(p) && p.state.type == Type::fp32 &&
         device::moves_in_vectors<4>(p.state) && device::moves_in_vectors<4>(p.A);
}

template <class S, int kSequences, bool kVectors>
void launch_step(const device::Launcher& launch, const StepParams& p) {
  const int64_t blocks = blocks_of_channels(p, S::kWidth);
  launch.early(step_kernel<S, kSequences, kVectors>,
               ceil_div(p.batch, int64_t{kSequences}) * blocks, S::kThreads, 0, p,
               static_cast<unsigned>(blocks));
}

}  // namespace

void cuda_step(const StepParams& p, void* stream) {
  const device::Launcher launch(p.device, stream, Step::name);
  dispatch_float(p.u.type, [&](auto type) {
    using T = typename decltype(type)::type;
    using Usual = StepShape<T, 2, 8>;
    if (moves_in_vectors<Usual>(p)) return launch_step<Usual, kStepSequences, true>(launch, p);
    dispatch_split(choose_cuda_split(p.states, p.batch * p.channels), [&](auto lanes, auto states) {
      launch_step<StepShape<T, lanes.value, states.value>, 1, false>(launch, p);
    });
  });
}

}  // namespace hax::selective_scan
