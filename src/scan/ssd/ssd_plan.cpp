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

CudaDevice device_of(const Inputs& in) {
  if constexpr (kWithCuda) return cuda_device(in.device);
  return {};
}

ForwardKernel choose_kernel(const CudaDevice& device, int64_t states) {
  if (states <= kLeastStates) return ForwardKernel::spans;
  return device.warpgroup_products && states <= kMostWarpgroupStates ? ForwardKernel::warpgroups
                                                                     : ForwardKernel::chunks;
}

// As many chunks as there are warps and memory for, in spans of about one length.
int span_chunks(const CudaForwardPlan& plan, int64_t chunks, int64_t bytes) {
  int64_t most = span_threads(plan.rows) / 32 / plan.units;
  while (most > 1 && span_bytes(most, plan.units, plan.rows) > bytes) --most;
  const int64_t spans = ceil_div(larger(chunks, int64_t{1}), most);
  return static_cast<int>(ceil_div(larger(chunks, int64_t{1}), spans));
}

// Into how many segments columns are cut that are fewer than the blocks that run at once. A block's time is counted in
// quarters of a chunk: 4 a chunk, 16 to start, 1 a chunk for its state alone, 2 for every segment before.
int64_t choose_segments(int64_t columns, int64_t chunks, int64_t blocks) {
  const auto cost = [&](int64_t segments) {
    const int64_t own = ceil_div(chunks, segments);
    return ceil_div(columns * segments, blocks) * (4 * own + 16) +
           ceil_div(columns * (segments - 1), blocks) * own + 2 * segments;
  };
  const int64_t most = smaller(chunks, 4 * ceil_div(blocks, columns));
  int64_t best = 1;
  for (int64_t n = 2; n <= most; ++n) {
    if (cost(n) < cost(best)) best = n;
  }
  return best;
}

}  // namespace

CudaForwardPlan plan_cuda_forward(const ForwardParams& p, Workspace& workspace) {
  // Columns that each multiprocessor should at least have one after the other for the last ones not to matter.
  constexpr int64_t kEnoughColumns = 8;
  CudaForwardPlan plan;
  if (p.x.type == Type::fp32 || p.heads == 0) return plan;
  const CudaDevice device = device_of(p);
  const int64_t states = padded_states(p.states), chunks = ceil_div(p.length, kChunk);
  int64_t residents = 1;  // blocks that share a multiprocessor
  plan.kernel = choose_kernel(device, states);
  if (plan.kernel == ForwardKernel::spans) {
    plan.units = 2;
    plan.rows = p.width <= 16 ? 16 : 32;
    residents = 2;
    plan.chunks = span_chunks(plan, chunks, device.shared_bytes / residents - 1024);
  } else {
    plan.units = plan.kernel == ForwardKernel::warpgroups ? kWarpgroupUnits : chunk_units(states);
    plan.rows = kSliceRows;
  }
  const int64_t units = p.heads / p.groups * ceil_div(p.width, plan.rows);
  const int64_t columns = p.sequences.count() * p.groups * ceil_div(units, plan.units);
  const int64_t all = columns * chunks, slots = device.processors * residents;
  if (!p.sequences.packed() && columns < kEnoughColumns * device.processors && all > slots) {
    if (columns < slots) {
      plan.segment_chunks = ceil_div(chunks, choose_segments(columns, chunks, slots));
      plan.segments = ceil_div(chunks, plan.segment_chunks);
    } else {
      plan.share = ceil_div(all, slots);
      plan.slots = ceil_div(all, plan.share);
      if (plan.share % chunks == 0) plan.slots = plan.share = 0;  // no column is cut
    }
  }
  const int64_t kept = plan.slots > 0 ? plan.slots : (plan.segments - 1) * columns;
  plan.states = workspace.take<float>(kept * plan.units * plan.rows * states);
  if (plan.slots > 0) {
    plan.ready = workspace.take<int>(kept * plan.units + 1);
    plan.next = plan.ready + kept * plan.units;
  } else {
    plan.decays = workspace.take<float>(kept * plan.units);
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
