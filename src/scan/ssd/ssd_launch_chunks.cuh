// The forward of one 16-bit type a chunk at a time, for files that instantiate it.
#pragma once

#include "scan/ssd/ssd_kernel_forward.cuh"
#include "scan/ssd/ssd_launch_forward.cuh"

namespace hax::ssd {

template <class T>
void launch_chunks(const device::Launcher& launch, const ForwardParams& p,
                   const CudaForwardPlan& plan) {
  const dim3 threads(static_cast<unsigned>(plan.units * kUnitWarps * device::kWarp));
  dispatch_value<64, 128, 256>(padded_states(p.states), [&](auto states) {
    constexpr int N = states.value;
    const auto run = [&](auto kernel, int64_t count, bool output) {
      const auto memory = [&](Stages stages) {
        return forward_memory(N, stages, plan.units, output);
      };
      Stages stages{output ? 3 : 2};
      while (stages.states > 1 && memory(stages) > launch.shared_memory()) --stages.states;
      launch(kernel, count, threads, memory(stages), p, plan, access_of(p), stages,
             splits_inputs(p), unit_blocks(p, plan));
    };
    if (plan.segments > 1) run(segments_kernel<T, N>, first_pass_blocks(p, plan), false);
    run(forward_kernel<T, N>, forward_blocks(p, plan), true);
  });
}

}  // namespace hax::ssd
