#include "scan/ssd/ssd_launch_backward.cuh"

namespace hax::ssd {

void backward_bf16(const device::Launcher& launch, const BackwardParams& p,
                   const CudaBackwardPlan& plan) {
  dispatch_backward<bf16, kCudaBackwardShapes16>(launch, p, plan);
}

bool cuda_has_warpgroup_gradients(hax_device device) {
  constexpr CudaBackwardShape s = kCudaBackwardShapes16[1];
  using S = BackwardShape<bf16, s.tokens, s.states, s.width, s.gradients>;
  const device::Launcher launcher(device, nullptr, Backward::name);  // makes the device current
  cudaFuncAttributes attributes;
  device::check(cudaFuncGetAttributes(&attributes, backward_chunk_kernel<S>), Backward::name,
                "cudaFuncGetAttributes");
  return attributes.maxThreadsPerBlock >= kChunkThreads;
}

}  // namespace hax::ssd
