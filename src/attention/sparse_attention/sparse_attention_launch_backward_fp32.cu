#include "attention/sparse_attention/sparse_attention_launch_backward.cuh"

namespace hax::sparse_attention {

template void launch_backward<float>(const BackwardParams&, const CudaBackwardPlan&, void*);

}  // namespace hax::sparse_attention
