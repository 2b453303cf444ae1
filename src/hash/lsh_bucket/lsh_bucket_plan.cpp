#include <algorithm>

#include "core/backend.hpp"
#include "hash/lsh_bucket/lsh_bucket.hpp"

namespace hax::lsh_bucket {
namespace {

Plan plan_cpu(const Params& p, const Context& context, Workspace& workspace) {
  const int64_t length = p.sequences.length;
  const int64_t threads = std::min<int64_t>(context.num_threads, p.sequences.count() * p.key_heads);
  Plan plan;
  plan.short_items = std::min(length, kTileItems);
  plan.thread_items = workspace.take<Item>(threads * kBuffers * plan.short_items);
  plan.long_items = length > kTileItems ? length : 0;
  plan.long_scratch = workspace.take<Item>(kBuffers * plan.long_items);
  plan.histograms = workspace.take<uint32_t>(ceil_div(plan.long_items, kTileItems) * kDigitValues);
  return plan;
}

CudaPlan plan_cuda(const Params& p, Workspace& workspace) {
  CudaPlan plan;
  plan.long_rows = p.sequences.longest > kCudaShortTokens;
  plan.short_rows = !plan.long_rows || p.sequences.packed();
  const int64_t keys = plan.long_rows ? p.sequences.batch * p.key_heads * p.sequences.length : 0;
  const int64_t tiles = plan.long_rows ? p.cuda_tiles().slots() * p.key_heads : 0;
  const bool wide = p.num_bits > 32;
  // Nobody needs the sorted codes of a single digit, and the last digit's positions are key_order.
  const int digits = (p.num_bits + kDigitBits - 1) / kDigitBits;
  for (void*& codes : plan.codes) {
    codes = workspace.take<uint32_t>(digits == 1 ? 0 : wide ? 2 * keys : keys);
  }
  for (int i = 0; i < 2; ++i) {
    plan.positions[i] = workspace.take<int32_t>(digits > i + 1 ? keys : 0);
  }
  plan.starts = workspace.take<int32_t>(keys);
  plan.counts = workspace.take<uint32_t>(tiles * kDigitValues);
  return plan;
}

}  // namespace

BothPlans Forward::plan(const Params& p, const Context& context, Workspace& workspace) {
  BothPlans plan;
  if (use_cuda(p.device, name)) {
    plan.cuda = plan_cuda(p, workspace);
  } else {
    plan.cpu = plan_cpu(p, context, workspace);
  }
  return plan;
}

void Forward::run(const Params& p, const BothPlans& plan, const Context& context, void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_forward(p, plan.cuda, stream);
  }
  host_forward(p, plan.cpu, context.num_threads);
}

}  // namespace hax::lsh_bucket
