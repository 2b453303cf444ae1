#include "attention/layer_attention/layer_attention_kernel_choose.cuh"
#include "core/dispatch.hpp"
#include "device/launch.cuh"

namespace hax::layer_attention {

static_assert(kMostBitsAtOnce <= lsh_bucket::JointKey::kMaxBits &&
              kLargestBudgetAtOnce <= 2 * device::kWarp);

void cuda_forward_short(const ForwardPlan& p, const Context& context, void* stream) {
  if (p.hash_q.params.long_rows() || p.hash_k.params.long_rows()) {
    p.hash_q.run(context, stream);
    p.hash_k.run(context, stream);
  } else {
    lsh_hash::cuda_forward_both(p.hash_q.params, p.hash_k.params, stream);
  }
  p.score.run(context, stream);
  p.rank.run(context, stream);  // its workspace becomes the indices'
  const sparse_attention::ForwardParams& attend = p.attend.params;
  const sparse_attention::CudaForwardPlan plan =
      sparse_attention::settle_cuda_forward(attend, p.attend.plan.cuda);
  const device::Launcher launch(attend.device, stream, Forward::name);
  const ShortChoice choice = {p.bucket.params, p.select.params, attend, plan.indices, plan.lists};
  dispatch_value<1, 2>(p.select.params.budget <= device::kWarp ? 1 : 2, [&](auto v) {
    launch.early(choose_kernel<v.value>, 2 * attend.sequences.count() * attend.k_heads,
                 kChooseThreads, sizeof(ChooseMemory<v.value>), choice);
  });
  sparse_attention::cuda_attend(attend, plan, launch);
}

}  // namespace hax::layer_attention
