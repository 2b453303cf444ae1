#include "scan/ssd/ssd_kernel_backward_parameters.cuh"
#include "scan/ssd/ssd_launch_backward.cuh"

namespace hax::ssd {

void cuda_backward(const BackwardParams& p, const CudaBackwardPlan& plan, void* stream) {
  if (p.dz) cuda_forward(forward_without_gate(p, plan.y), plan.forward, stream);
  const device::Launcher launch(p.device, stream, Backward::name);
  switch (p.x.type) {
    case Type::bf16: backward_bf16(launch, p, plan); break;
    case Type::fp16: backward_fp16(launch, p, plan); break;
    default: backward_fp32(launch, p, plan); break;
  }
  if (p.dA || p.ddt_bias || p.dD) {
    launch(backward_sum_parameters_kernel, p.heads, kSumThreads, 0, p, plan);
  }
}

}  // namespace hax::ssd
