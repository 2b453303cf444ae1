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
  const auto stages = [&](bool output) {
    return forward_memory(N, 2, plan.units, plan.warps, output) <= launch.shared_memory() ? 2 : 1;
  };
  if (plan.ready) {
    clear_flags(launch, plan.ready, plan.slots);
  } else if (plan.slots > 0) {
    const int count = stages(false);
    launch(pieces_kernel<T, N>, plan.slots, threads,
           forward_memory(N, count, plan.units, plan.warps, false), p, plan, access, count, split,
           blocks);
  }
  const int count = stages(true);
  launch(forward_kernel<T, N>, plan.slots > 0 ? plan.slots : p.sequences.count() * blocks, threads,
         forward_memory(N, count, plan.units, plan.warps, true), p, plan, access, count, split,
         blocks);
}

template <class T>
void launch_forward(const device::Launcher& launch, const ForwardParams& p,
                    const CudaForwardPlan& plan) {
  dispatch_value<32, 64, 128, 256>(padded_states(p.states), [&](auto states) {
    launch_chunks<T, states.value>(launch, p, plan);
  });
}

}  // namespace hax::ssd
