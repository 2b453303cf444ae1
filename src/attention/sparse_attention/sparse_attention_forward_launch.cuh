// Launches of the forward kernel for one type.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_forward.cuh"
#include "core/dispatch.hpp"
#include "device/launch.cuh"

namespace hax::sparse_attention {

template <class T>
void launch_forward(const ForwardParams& p, const CudaForwardPlan& plan, bool bucket_order,
                    const device::Launcher& launch) {
  const int64_t width = p.d_v <= 64 ? 64 : p.d_v <= 128 ? 128 : 256;
  const int64_t blocks = p.sequences.batch * p.q_heads * Tiling{kTileTokens}.places(p.sequences);
  dispatch_value<64, 128, 256>(width, [&](auto w) {
    using Shape = ForwardShape<T, w.value>;
    launch(forward_kernel<Shape>, blocks, kForwardThreads,
           static_cast<size_t>(forward_shared_bytes<Shape>(p.d_qk)), p, plan, bucket_order);
  });
}

extern template void launch_forward<float>(const ForwardParams&, const CudaForwardPlan&, bool,
                                           const device::Launcher&);
extern template void launch_forward<fp16>(const ForwardParams&, const CudaForwardPlan&, bool,
                                          const device::Launcher&);
extern template void launch_forward<bf16>(const ForwardParams&, const CudaForwardPlan&, bool,
                                          const device::Launcher&);

}  // namespace hax::sparse_attention
