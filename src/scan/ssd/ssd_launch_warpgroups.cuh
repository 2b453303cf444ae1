// The forward of one 16-bit type by warpgroups, for files that instantiate it.
#pragma once

#include "scan/ssd/ssd_kernel_warpgroup.cuh"
#include "scan/ssd/ssd_launch_forward.cuh"

namespace hax::ssd {

template <class T>
void launch_warpgroups(const device::Launcher& launch, const ForwardParams& p,
                       const CudaForwardPlan& plan) {
  dispatch_value<64, 128>(padded_states(p.states), [&](auto states) {
    constexpr int N = states.value;
    const auto run = [&](auto kernel, int64_t count, size_t bytes) {
      launch(kernel, count, kWarpgroupThreads, bytes, p, plan, access_of(p), splits_inputs(p),
             unit_blocks(p, plan));
    };
    const auto outputs = is_plain(p) ? warpgroup_kernel<T, N, Pass::plain_outputs>
                                     : warpgroup_kernel<T, N, Pass::outputs>;
    if (plan.segments > 1) {
      run(warpgroup_kernel<T, N, Pass::states>, first_pass_blocks(p, plan),
          WarpgroupMemory<N, false>::bytes());
      // It touches nothing but these states that the kernel before writes.
      launch.early(outputs, forward_blocks(p, plan), kWarpgroupThreads,
                   WarpgroupMemory<N, true>::bytes(), p, plan, access_of(p), splits_inputs(p),
                   unit_blocks(p, plan));
    } else {
      run(outputs, forward_blocks(p, plan), WarpgroupMemory<N, true>::bytes());
    }
  });
}

}  // namespace hax::ssd
