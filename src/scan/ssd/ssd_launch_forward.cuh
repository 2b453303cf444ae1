// The forward of one 16-bit type, for files that instantiate it.
#pragma once

#include "core/dispatch.hpp"
#include "device/launch.cuh"
#include "scan/ssd/ssd_kernel_forward.cuh"
#include "scan/ssd/ssd_launch.cuh"

namespace hax::ssd {

template <class T, int N>
void launch_chunks(const device::Launcher& launch, const ForwardParams& p,
                   const CudaForwardPlan& plan) {
  const ForwardAccess access = {
      device::moves_in_vectors<8>(p.x), device::moves_in_vectors<8>(p.z),
      device::moves_in_vectors<8>(p.y),
      device::moves_in_vectors<8>(p.B) && device::moves_in_vectors<8>(p.C)};
  const int64_t blocks = unit_blocks(p, plan.units);
  const dim3 threads(static_cast<unsigned>(plan.units * plan.warps * device::kWarp));
  // A state that leaves the kernel in more bits than T has is made of two products.
  const auto wide = [&](const Tensor& states) { return states && states.type != p.x.type; };
  const bool split = wide(p.final_state) || wide(p.checkpoints.states);
  const auto run = [&](auto kernel, int64_t count, bool output) {
    const auto memory = [&](Stages stages) {
      return forward_memory(N, stages, plan.units, plan.warps, output);
    };
    Stages stages{output ? 3 : 2};
    while (stages.states > 1 && plan.residents * memory(stages) > launch.shared_memory()) {
      --stages.states;
    }
    launch(kernel, count, threads, memory(stages), p, plan, access, stages, split, blocks);
  };
  if (plan.ready) {
    clear_flags(launch, plan.ready, plan.slots);
  } else if (plan.slots > 0) {
    run(pieces_kernel<T, N>, plan.slots, false);
  }
  run(forward_kernel<T, N>, plan.slots > 0 ? plan.slots : p.sequences.count() * blocks, true);
}

template <class T>
void launch_forward(const device::Launcher& launch, const ForwardParams& p,
                    const CudaForwardPlan& plan) {
  dispatch_value<32, 64, 128, 256>(padded_states(p.states), [&](auto states) {
    launch_chunks<T, states.value>(launch, p, plan);
  });
}

}  // namespace hax::ssd
