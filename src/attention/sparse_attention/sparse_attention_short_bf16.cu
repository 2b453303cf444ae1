#include "attention/sparse_attention/sparse_attention_short_launch.cuh"

namespace hax::sparse_attention {
template void launch_short_forward<bf16>(const ForwardParams&, const CudaForwardPlan&,
                                         const device::Launcher&);
}  // namespace hax::sparse_attention
