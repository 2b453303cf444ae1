#include "core/backend.hpp"
#include "core/cpu_dispatch.hpp"
#include "scan/selective_scan/selective_scan.hpp"

namespace hax::selective_scan {
namespace {

constexpr int64_t kLargestBlock = 256;  // channels; long rows are what memory serves best

ScanForwardPlan plan_forward(const Inputs& in, int64_t sequences, const Context& context,
                             Workspace& workspace) {
  ScanForwardPlan plan;
  plan.blocks = make_scan_blocks(in.channels, in.groups, sequences, kLargestBlock, kScanPadding,
                                 enough_forward_tasks(context.num_threads));
  plan.scratch = take_thread_scratch(workspace, context.num_threads, [&](Workspace& scratch) {
    Buffers(in.states, padded_width(plan.blocks), scratch);
  });
  return plan;
}

}  // namespace

ForwardPlan Forward::plan(const ForwardParams& p, const Context& context, Workspace& workspace) {
  if (use_cuda(p.device, name)) return {.cpu = {}, .cuda = plan_cuda_forward(p, workspace)};
  return {.cpu = plan_forward(p, p.sequences.count(), context, workspace), .cuda = {}};
}

void Forward::run(const ForwardParams& p, const ForwardPlan& plan, const Context& context,
                  void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_forward(p, plan.cuda, stream);
  }
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_forward<level.value>(p, plan.cpu, context.num_threads); });
}

BackwardPlan Backward::plan(const BackwardParams& p, const Context& context, Workspace& workspace) {
  if (use_cuda(p.device, name)) return {.cpu = {}, .cuda = plan_cuda_backward(p, workspace)};
  const ScanBlocks blocks = make_scan_blocks(p.channels, p.groups, p.batch, kLargestBlock,
                                             kScanPadding, kEnoughBackwardTasks);
  const int64_t width = padded_width(blocks);
  ScanBackwardPlan plan = plan_scan_backward(p.sequences, blocks, p.states, p.states * width,
                                             sums_size(p.states, width), workspace);
  plan.scratch = take_thread_scratch(workspace, context.num_threads, [&](Workspace& scratch) {
    Buffers(p.states, width, scratch);
    BackwardBuffers(p.states, width, scratch);
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
  if (use_cuda(p.device, name)) return {};
  return plan_forward(p, p.batch, context, workspace);
}

void Step::run(const StepParams& p, const ScanForwardPlan& plan, const Context& context,
               void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_step(p, stream);
  }
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_step<level.value>(p, plan, context.num_threads); });
}

}  // namespace hax::selective_scan
