// The forward of one 16-bit type in spans of chunks, for files that instantiate it.
#pragma once

#include "scan/ssd/ssd_kernel_span.cuh"
#include "scan/ssd/ssd_launch_forward.cuh"

namespace hax::ssd {

template <class T>
void launch_spans(const device::Launcher& launch, const ForwardParams& p,
                  const CudaForwardPlan& plan) {
  dispatch_value<1, 2>(plan.rows / 16, [&](auto pairs) {
    const auto run = [&](auto kernel, int64_t count) {
      launch(kernel, count, static_cast<unsigned>(plan.chunks * plan.units * device::kWarp),
             static_cast<size_t>(span_bytes(plan.chunks, plan.units, plan.rows)), p, plan,
             access_of(p), splits_inputs(p), unit_blocks(p, plan));
    };
    run(span_kernel<T, pairs.value, Pass::states>, first_pass_blocks(p, plan));
    run(is_plain(p) ? span_kernel<T, pairs.value, Pass::plain_outputs>
                    : span_kernel<T, pairs.value, Pass::outputs>,
        forward_blocks(p, plan));
  });
}

}  // namespace hax::ssd
