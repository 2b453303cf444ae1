#include "core/dispatch.hpp"
#include "device/launch.cuh"
#include "hash/ranking_loss/ranking_loss_kernel_pairs.cuh"

namespace hax::ranking_loss {

void cuda_forward(const ForwardParams& p, const CudaForwardPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Forward::name);
  const int64_t tiles = p.cuda_tiles().slots() * p.heads * ceil_div(p.picks, kPanel);
  dispatch_float(p.q.type, [&](auto type) {
    using T = typename decltype(type)::type;
    launch(share_kernel<T>, tiles, kShareThreads, share_bytes(p.features), p, plan);
  });
  launch(target_kernel, ceil_div(p.rows() * p.picks, kTargetThreads), kTargetThreads, 0, p, plan);
  launch(count_kernel, p.rows(), kPairThreads, 0, p, plan.count);
  launch(loss_kernel, p.rows() * p.pair_blocks(), kPairThreads, 0, p, plan);
  launch(total_kernel, 1, kTotalThreads, 0, p, plan);
}

void cuda_backward(const BackwardParams& p, const CudaBackwardPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Backward::name);
  const int64_t scores = p.sequences.batch * p.heads * p.sequences.length;
  launch(zero_kernel, ceil_div(scores, kZeroThreads), kZeroThreads, 0, p);
  launch(count_kernel, p.rows(), kPairThreads, 0, p, plan.count);
  launch(rows_kernel, 1, kTotalThreads, 0, p, plan);
  launch(gradient_kernel, p.rows() * p.pair_blocks(), kPairThreads, 0, p, plan);
}

}  // namespace hax::ranking_loss
