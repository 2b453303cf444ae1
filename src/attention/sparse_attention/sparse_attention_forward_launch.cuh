// Launches of the forward kernel for one type.
#pragma once

#include <algorithm>
#include <iterator>

#include "attention/sparse_attention/sparse_attention_kernel_band.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_forward.cuh"
#include "core/dispatch.hpp"
#include "device/launch.cuh"

namespace hax::sparse_attention {

// Widths that there are kernels for, the narrowest first; fp32 has only some of them.
struct ForwardWidths {
  int qk, v;
  bool fp32;
};
inline constexpr ForwardWidths kForwardWidths[] = {
    {32, 64, false},  {64, 64, true},   {32, 128, false}, {64, 128, false},
    {128, 128, true}, {32, 256, false}, {256, 256, true},
};

template <class T, int at = 0>
void launch_forward(const ForwardParams& p, const CudaForwardPlan& plan, bool bucket_order,
                    const device::Launcher& launch) {
  constexpr ForwardWidths widths = kForwardWidths[at];
  constexpr bool last = at + 1 == std::size(kForwardWidths);
  if constexpr (sizeof(T) == 2 || widths.fp32) {
    if (last || (p.d_qk <= widths.qk && p.d_v <= widths.v)) {
      using Shape = ForwardShape<T, widths.qk, widths.v>;
      const int64_t blocks =
          p.sequences.batch * p.q_heads * Tiling{kTileTokens}.places(p.sequences);
      return launch(forward_kernel<Shape>, blocks, kForwardThreads, kForwardSharedSize<Shape>, p,
                    plan, bucket_order);
    }
  }
  if constexpr (!last) launch_forward<T, at + 1>(p, plan, bucket_order, launch);
}

// Launches the kernel of narrow windows if it fits the call and the GPU; answers whether it did.
template <class T>
bool launch_band(const ForwardParams& p, const CudaForwardPlan& plan,
                 const device::Launcher& launch) {
  if constexpr (sizeof(T) == 2) {
    const bool fits = p.pattern.bits == HAX_PATTERN_SLIDING_WINDOW &&
                      p.pattern.window <= kBandWindow && plan.vectors_q && plan.vectors_k &&
                      plan.vectors_v && plan.vectors_o;
    const auto run = [&](auto shape) {
      using Shape = decltype(shape);
      if (std::max(p.d_qk, p.d_v) > Shape::kWidth) return false;
      if (launch.shared_memory() < Shape::kSharedSize) return false;
      const BandStrips strips(p);
      launch(band_kernel<Shape>, p.sequences.batch * p.q_heads * strips.count, kBandThreads,
             Shape::kSharedSize, p, strips);
      return true;
    };
    return fits && (run(BandShape<T, 64>{}) || run(BandShape<T, 128>{}));
  }
  return false;
}

template <class T>
void launch_short_forward(const ForwardParams&, const CudaForwardPlan&, const device::Launcher&);

extern template void launch_forward<float>(const ForwardParams&, const CudaForwardPlan&, bool,
                                           const device::Launcher&);
extern template void launch_forward<fp16>(const ForwardParams&, const CudaForwardPlan&, bool,
                                          const device::Launcher&);
extern template void launch_forward<bf16>(const ForwardParams&, const CudaForwardPlan&, bool,
                                          const device::Launcher&);
extern template bool launch_band<float>(const ForwardParams&, const CudaForwardPlan&,
                                        const device::Launcher&);
extern template bool launch_band<fp16>(const ForwardParams&, const CudaForwardPlan&,
                                       const device::Launcher&);
extern template bool launch_band<bf16>(const ForwardParams&, const CudaForwardPlan&,
                                       const device::Launcher&);

extern template void launch_short_forward<fp16>(const ForwardParams&, const CudaForwardPlan&,
                                                const device::Launcher&);
extern template void launch_short_forward<bf16>(const ForwardParams&, const CudaForwardPlan&,
                                                const device::Launcher&);

}  // namespace hax::sparse_attention
