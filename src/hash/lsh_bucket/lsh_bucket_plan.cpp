#include <algorithm>

#include "core/backend.hpp"
#include "hash/lsh_bucket/lsh_bucket.hpp"

namespace hax::lsh_bucket {

Plan Forward::plan(const Params& p, const Context& context, Workspace& workspace) {
  require_cpu(p.device, name);
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

void Forward::run(const Params& p, const Plan& plan, const Context& context, void*) {
  host_forward(p, plan, context.num_threads);
}

}  // namespace hax::lsh_bucket
