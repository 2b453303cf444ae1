#include <algorithm>

#include "core/backend.hpp"
#include "core/cpu_dispatch.hpp"
#include "hash/ranking_loss/ranking_loss.hpp"

namespace hax::ranking_loss {
namespace {

PickPlan plan_picks(const Inputs& p, Workspace& workspace) {
  PickPlan plan;
  plan.count = workspace.take<int64_t>(p.rows());
  plan.entry = workspace.take<int32_t>(p.rows() * p.picks);
  plan.score = workspace.take<float>(p.rows() * p.padded_picks());
  plan.target = workspace.take<float>(p.rows() * p.padded_picks());
  return plan;
}

}  // namespace

ForwardPlan Forward::plan(const ForwardParams& p, const Context& context, Workspace& workspace) {
  ForwardPlan plan = {};
  if (use_cuda(p.device, name)) {
    plan.cuda.shares = workspace.take<double>(p.cuda_tiles().slots() * p.heads * p.picks);
    plan.cuda.target = workspace.take<float>(p.rows() * p.picks);
    plan.cuda.losses = workspace.take<double>(p.rows() * p.pair_blocks());
    plan.cuda.count = workspace.take<int64_t>(p.rows());
    return plan;
  }
  const int64_t tasks = p.tiles().slots() * p.heads;
  const int64_t threads = std::min<int64_t>(context.num_threads, tasks);
  plan.picks = plan_picks(p, workspace);
  plan.queries = workspace.take<float>(threads * kTileTokens * query_row(p));
  plan.shares = workspace.take<double>(tasks * p.padded_picks());
  plan.losses = workspace.take<float>(p.rows() * p.padded_picks());
  return plan;
}

void Forward::run(const ForwardParams& p, const ForwardPlan& plan, const Context& context,
                  void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_forward(p, plan.cuda, stream);
  }
  order_picks(p, plan.picks, context.num_threads);
  with_cpu_level(context.cpu_level, [&](auto level) {
    cpu_targets<level.value>(p, plan, context.num_threads);
    cpu_loss<level.value>(p, plan, context.num_threads);
  });
}

BackwardPlan Backward::plan(const BackwardParams& p, const Context&, Workspace& workspace) {
  BackwardPlan plan = {};
  if (use_cuda(p.device, name)) {
    plan.cuda.count = workspace.take<int64_t>(p.rows());
    plan.cuda.rows_used = workspace.take<int64_t>(1);
    return plan;
  }
  plan.picks = plan_picks(p, workspace);
  plan.gradient = workspace.take<float>(p.rows() * p.padded_picks());
  return plan;
}

void Backward::run(const BackwardParams& p, const BackwardPlan& plan, const Context& context,
                   void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_backward(p, plan.cuda, stream);
  }
  order_picks(p, plan.picks, context.num_threads);
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_backward<level.value>(p, plan, context.num_threads); });
}

}  // namespace hax::ranking_loss
