#include "scan/ssd/ssd_launch_backward.cuh"

namespace hax::ssd {

void backward_bf16(const device::Launcher& launch, const BackwardParams& p,
                   const CudaBackwardPlan& plan) {
  dispatch_backward<bf16, kCudaBackwardShapes16>(launch, p, plan);
}

}  // namespace hax::ssd
