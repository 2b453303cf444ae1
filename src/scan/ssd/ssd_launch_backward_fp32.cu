#include "scan/ssd/ssd_launch_backward.cuh"

namespace hax::ssd {

void backward_fp32(const device::Launcher& launch, const BackwardParams& p,
                   const CudaBackwardPlan& plan) {
  dispatch_backward<float, kCudaBackwardShapes32>(launch, p, plan);
}

}  // namespace hax::ssd
