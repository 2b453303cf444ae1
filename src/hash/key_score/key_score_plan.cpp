#include <algorithm>

#include "core/backend.hpp"
#include "core/cpu_dispatch.hpp"
#include "hash/key_score/key_score.hpp"

namespace hax::key_score {
namespace {

QueryPlan plan_query(const Inputs& p, Workspace& workspace) {
  const int64_t features = p.padded_features();
  QueryPlan plan;
  plan.values = p.sequence_norm ? 3 : 1;
  plan.sums = workspace.take<double>(p.tiles().slots() * p.heads * plan.values * features);
  plan.scale = nullptr;
  if (p.sequence_norm) {
    plan.scale = workspace.take<double>(p.sequences.count() * p.heads * features);
  }
  return plan;
}

WeightPlan plan_weights(const Inputs& p, Workspace& workspace, bool backward) {
  const int64_t panels = p.width() * round_up(p.width(), 32);
  WeightPlan plan;
  plan.W1 = workspace.take<float>(panels);
  plan.W2 = workspace.take<float>(panels);
  plan.W2_backward = backward ? workspace.take<float>(panels) : nullptr;
  plan.vectors = workspace.take<float>(4 * p.row());
  return plan;
}

CudaQueryPlan plan_cuda_query(const Inputs& p, Workspace& workspace) {
  CudaQueryPlan plan;
  plan.values = p.sequence_norm ? 3 : 1;
  plan.sums = workspace.take<double>(p.cuda_tiles().slots() * p.heads * plan.values * p.features);
  plan.scale =
      workspace.take<double>(p.sequence_norm ? p.sequences.count() * p.heads * p.features : 0);
  return plan;
}

}  // namespace

ForwardPlan Forward::plan(const ForwardParams& p, const Context& context, Workspace& workspace) {
  ForwardPlan plan = {};
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) {
      if (p.long_rows()) {
        plan.cuda.query = plan_cuda_query(p, workspace);
        plan.cuda.weights = workspace.take<uint32_t>(cuda_weight_words(p));
      }
      return plan;
    }
  }
  require_cpu(p.device, name);
  const int64_t threads = std::min<int64_t>(context.num_threads, p.tiles().slots() * p.heads);
  plan.query = plan_query(p, workspace);
  plan.weights = plan_weights(p, workspace, false);
  plan.scratch = workspace.take<float>(threads * 2 * kStep * p.row());
  return plan;
}

void Forward::run(const ForwardParams& p, const ForwardPlan& plan, const Context& context,
                  void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_forward(p, plan.cuda, stream);
  }
  with_cpu_level(context.cpu_level, [&](auto level) {
    cpu_setup<level.value>(p, plan.query, plan.weights, context.num_threads);
    cpu_forward<level.value>(p, plan, context.num_threads);
  });
}

BackwardPlan Backward::plan(const BackwardParams& p, const Context& context, Workspace& workspace) {
  BackwardPlan plan = {};
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) {
      const CudaBackwardSizes sizes = cuda_backward_sizes(p);
      if (p.long_rows()) {
        plan.cuda.query = plan_cuda_query(p, workspace);
        plan.cuda.weights = workspace.take<float>(sizes.weights);
      }
      plan.cuda.short_parts = sizes.short_parts;
      plan.cuda.parts = sizes.parts;
      plan.cuda.short_gradients = workspace.take<float>(sizes.short_parts * sizes.part_floats);
      plan.cuda.gradients = workspace.take<float>(sizes.parts * sizes.part_floats);
      return plan;
    }
  }
  require_cpu(p.device, name);
  plan.query = plan_query(p, workspace);
  plan.weights = plan_weights(p, workspace, true);
  plan.parts = std::min(kMaxGradientParts, p.tiles().slots() * p.heads);
  plan.part_floats = (2 * gradient_rows(p) + 4) * p.row();
  plan.gradients = workspace.take<float>(plan.parts * plan.part_floats);
  const int64_t threads = std::min<int64_t>(context.num_threads, plan.parts);
  plan.scratch = workspace.take<float>(threads * kBackwardBuffers * kStep * p.row());
  return plan;
}

void Backward::run(const BackwardParams& p, const BackwardPlan& plan, const Context& context,
                   void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_backward(p, plan.cuda, stream);
  }
  with_cpu_level(context.cpu_level, [&](auto level) {
    cpu_setup<level.value>(p, plan.query, plan.weights, context.num_threads);
    cpu_backward<level.value>(p, plan, context.num_threads);
  });
}

}  // namespace hax::key_score
