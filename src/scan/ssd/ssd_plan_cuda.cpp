#include "core/backend.hpp"
#include "scan/ssd/ssd.hpp"

namespace hax::ssd {
namespace {

bool has_large_shared_memory(hax_device device) {
  if constexpr (kWithCuda) return cuda_shared_limit(device) >= 224 * 1024;
  return false;
}

CudaBackwardShape choose_shape(const BackwardParams& p) {
  if (p.x.type == Type::fp32) return kCudaBackwardShapes32[p.states > 32];
  if (p.states <= 32 && p.width <= 16) return kCudaBackwardShapes16[0];
  if (p.states <= 128 && has_large_shared_memory(p.device)) return kCudaBackwardShapes16[1];
  return kCudaBackwardShapes16[2];
}

}  // namespace

CudaBackwardPlan plan_cuda_backward(const BackwardParams& p, Workspace& workspace) {
  constexpr int64_t kEnoughBlocks = 1024;
  CudaBackwardPlan plan;
  plan.shape = choose_shape(p);
  plan.chunks.tokens = 2 * plan.shape.tokens;
  plan.chunks.count = p.sequences.packed() ? p.length / plan.chunks.tokens + p.sequences.count()
                                           : p.batch * plan.chunks.per_row(p.sequences);
  plan.slices = ceil_div(p.width, plan.shape.width);
  const int64_t units = plan.units(p.heads);
  const int64_t members = p.groups > 0 ? units / p.groups : 0;
  const int64_t blocks = larger(1, plan.tiles() * p.groups);
  plan.shares = larger(1, smaller(members, ceil_div(kEnoughBlocks, blocks)));

  const int64_t per_head = plan.chunks.count * p.heads;
  const int64_t size = static_cast<int64_t>(size_of(p.x.type));
  plan.steps = workspace.take<float>(per_head * 3 * plan.chunks.tokens);
  plan.decays = workspace.take<float>(per_head * 4);
  plan.weights = workspace.take<char>(2 * per_head * plan.chunks.tokens * size);
  plan.states = workspace.take<char>(2 * plan.chunks.count * units * plan.shape.width *
                                     plan.shape.states * size);
  plan.step_sums = workspace.take<float>(plan.slices * per_head * plan.chunks.tokens);
  const bool several = plan.shares > 1 && (p.dB || p.dC);
  plan.gradients = workspace.take<float>(
      several ? plan.shares * p.batch * p.length * p.groups * 2 * p.states : 0);
  if (!several) plan.gradients = nullptr;
  plan.skip_columns = p.D.ndim == 2 ? plan.shape.width : 1;
  plan.dA = workspace.take<float>(plan.tiles() * units);
  plan.dD = workspace.take<float>(p.dD ? plan.tiles() * units * plan.skip_columns : 0);
  plan.dbias = workspace.take<float>(per_head);
  return plan;
}

}  // namespace hax::ssd
