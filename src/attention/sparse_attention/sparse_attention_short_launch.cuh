// Launches of the forward kernel for LSH and key selection in short sequences, for one type.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_short_forward.cuh"
#include "device/launch.cuh"

namespace hax::sparse_attention {

// Where plan.lists.short_queries is set.
template <class T>
void launch_short_forward(const ForwardParams& p, const CudaForwardPlan& plan,
                          const device::Launcher& launch) {
  const auto run = [&](auto shape) {
    using Shape = decltype(shape);
    static_assert(sizeof(ShortMemory<Shape>) <= 99 * 1024);  // every GPU has that
    const int64_t blocks =
        p.sequences.batch * p.q_heads * Tiling{Shape::kQueries}.places(p.sequences);
    launch.early(short_forward_kernel<Shape>, blocks, Shape::kThreads, sizeof(ShortMemory<Shape>),
                 p, plan);
  };
  if (p.d_qk <= 32) return run(ShortShape<T, 32, 8, 4, 2>{});
  run(ShortShape<T, 64, 8, 3, 2>{});
}

}  // namespace hax::sparse_attention
