#include "attention/sparse_attention/sparse_attention_backward_launch.cuh"

namespace hax::sparse_attention {

template void launch_backward<bf16>(const device::Launcher&, const BackwardParams&,
                                    const CudaBackwardPlan&);

}  // namespace hax::sparse_attention
