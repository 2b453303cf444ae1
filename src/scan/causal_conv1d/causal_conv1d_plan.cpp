#include "core/backend.hpp"
#include "core/cpu_dispatch.hpp"
#include "scan/causal_conv1d/causal_conv1d.hpp"

namespace hax::causal_conv1d {

ForwardPlan Forward::plan(const ForwardParams& p, const Context&, Workspace&) {
  require_cpu(p.device, name);
  return {};
}

void Forward::run(const ForwardParams& p, const ForwardPlan& plan, const Context& context, void*) {
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_forward<level.value>(p, plan, context.num_threads); });
}

BackwardPlan Backward::plan(const BackwardParams& p, const Context&, Workspace& workspace) {
  require_cpu(p.device, name);
  BackwardPlan plan;
  plan.tiles_per_row = (p.sequences.length + kTileTokens - 1) / kTileTokens;
  plan.partial =
      workspace.take<float>(p.sequences.batch * plan.tiles_per_row * (p.width + 1) * p.channels);
  return plan;
}

void Backward::run(const BackwardParams& p, const BackwardPlan& plan, const Context& context,
                   void*) {
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_backward<level.value>(p, plan, context.num_threads); });
}

StepPlan Step::plan(const StepParams& p, const Context&, Workspace&) {
  require_cpu(p.device, name);
  return {};
}

void Step::run(const StepParams& p, const StepPlan&, const Context& context, void*) {
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_step<level.value>(p, context.num_threads); });
}

}  // namespace hax::causal_conv1d
