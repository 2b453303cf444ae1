#include "core/backend.hpp"
#include "core/cpu_dispatch.hpp"
#include "scan/ssd/ssd.hpp"

namespace hax::ssd {
namespace {

constexpr int64_t kLargestBlock = 4;  // heads, which share the products of B and C

ScanForwardPlan plan_forward(const Inputs& in, int64_t sequences, const Context& context,
                             Workspace& workspace) {
  ScanForwardPlan plan;
  plan.blocks = make_scan_blocks(in.heads, in.groups, sequences, kLargestBlock, 1,
                                 enough_forward_tasks(context.num_threads));
  plan.scratch = take_thread_scratch(workspace, context.num_threads, [&](Workspace& scratch) {
    Buffers(in, plan.blocks.size, scratch);
  });
  return plan;
}

}  // namespace

ScanForwardPlan Forward::plan(const ForwardParams& p, const Context& context,
                              Workspace& workspace) {
  require_cpu(p.device, name);
  return plan_forward(p, p.sequences.count(), context, workspace);
}

void Forward::run(const ForwardParams& p, const ScanForwardPlan& plan, const Context& context,
                  void*) {
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_forward<level.value>(p, plan, context.num_threads); });
}

BackwardPlan Backward::plan(const BackwardParams& p, const Context& context, Workspace& workspace) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return {.cpu = {}, .cuda = plan_cuda_backward(p, workspace)};
  }
  require_cpu(p.device, name);
  const ScanBlocks blocks =
      make_scan_blocks(p.heads, p.groups, p.batch, kLargestBlock, 1, kEnoughBackwardTasks);
  ScanBackwardPlan plan =
      plan_scan_backward(p.sequences, blocks, p.states, blocks.size * head_state_size(p),
                         blocks.size * head_sums_size(p), workspace);
  plan.scratch = take_thread_scratch(workspace, context.num_threads, [&](Workspace& scratch) {
    Buffers(p, blocks.size, scratch);
    BackwardBuffers(p, blocks.size, scratch);
    scratch.take<float>(plan.tiles() * plan.state_size);
  });
  return {.cpu = plan, .cuda = {}};
}

void Backward::run(const BackwardParams& p, const BackwardPlan& plan, const Context& context,
                   void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_backward(p, plan.cuda, stream);
  }
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_backward<level.value>(p, plan.cpu, context.num_threads); });
}

ScanForwardPlan Step::plan(const StepParams& p, const Context& context, Workspace& workspace) {
  require_cpu(p.device, name);
  return plan_forward(p, p.batch, context, workspace);
}

void Step::run(const StepParams& p, const ScanForwardPlan& plan, const Context& context, void*) {
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_step<level.value>(p, plan, context.num_threads); });
}

}  // namespace hax::ssd
