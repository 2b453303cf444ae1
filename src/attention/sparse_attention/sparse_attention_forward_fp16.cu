#include "attention/sparse_attention/sparse_attention_forward_launch.cuh"

namespace hax::sparse_attention {
template void launch_forward<fp16>(const ForwardParams&, const CudaForwardPlan&, bool,
                                   const device::Launcher&);
template bool launch_band<fp16>(const ForwardParams&, const CudaForwardPlan&,
                                const device::Launcher&);
}  // namespace hax::sparse_attention
