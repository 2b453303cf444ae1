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

CudaForwardPlan plan_cuda_forward(const ForwardParams& p, Workspace& workspace) {
  // Multiprocessors of the GPUs this was measured on, and how many columns each of them should at least have one after
  // the other for the last ones not to matter.
  constexpr int64_t kProcessors = 132, kEnoughColumns = 8 * kProcessors;
  constexpr int kMostUnits = 4;
  CudaForwardPlan plan;
  if (p.x.type == Type::fp32 || p.heads == 0) return plan;
  plan.warps = p.states > 32 || p.width > 32 ? 4 : p.width > 16 ? 2 : 1;
  plan.units = p.states > 128 ? 1 : p.states > 32 ? 3 : kMostUnits;
  const int64_t units = p.heads / p.groups * slices(p.width);
  if (units < plan.units) plan.units = static_cast<int>(units);
  const int64_t columns = p.sequences.count() * p.groups * ceil_div(units, plan.units);
  const int64_t chunks = ceil_div(p.length, kChunk), all = columns * chunks;
  // Small blocks leave a processor idle most of the time, unless there are several.
  if (plan.units * plan.warps <= 4 && p.states <= 32) plan.residents = 3;
  const int64_t slots = kProcessors * plan.residents;
  if (!p.sequences.packed() && columns < kEnoughColumns && all > slots) {
    plan.share = ceil_div(all, slots);
    plan.slots = ceil_div(all, plan.share);
    if (plan.share % chunks == 0) plan.slots = plan.share = 0;  // no column is cut
  }
  const int64_t rows = plan.units * plan.warps * kTileRows;
  plan.states = workspace.take<float>(plan.slots * rows * padded_states(p.states));
  if (plan.slots > 0 && plan.share >= chunks) {
    plan.ready = workspace.take<int>(plan.slots);
  } else {
    plan.decays = workspace.take<float>(plan.slots * plan.units);
  }
  return plan;
}

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

}  // namespace hax::ssd
