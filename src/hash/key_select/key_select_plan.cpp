#include <algorithm>

#include "core/backend.hpp"
#include "hash/key_select/key_select.hpp"

namespace hax::key_select {
namespace {

Plan plan_cuda(const Params& p, Workspace& workspace) {
  const int64_t length = p.sequences.length;
  const int64_t kept = std::min(p.budget, p.sequences.longest);
  Plan plan = {};
  if (kept <= kMaxListed) {
    for (plan.listed = 32; plan.listed < kept;) plan.listed *= 2;
  }
  plan.several = p.sequences.longest > kChunkTokens;
  const bool lists = plan.several && plan.listed > 0;
  const int64_t chunks = lists ? p.chunks().slots() * p.heads : 0;
  plan.best = workspace.take<uint64_t>(chunks * plan.listed);
  plan.bounds = workspace.take<float>(lists ? 2 * p.sequences.count() * p.heads : 0);
  plan.counts = workspace.take<int32_t>(chunks);
  plan.entering = workspace.take<uint64_t>(chunks * kMostEntering);
  const int64_t keys = p.sequences.batch * p.heads * length;
  plan.all = workspace.take<uint64_t>(plan.listed > 0 ? 0 : 2 * keys);
  return plan;
}

}  // namespace

Plan Forward::plan(const Params& p, const Context& context, Workspace& workspace) {
  if (use_cuda(p.device, name)) return plan_cuda(p, workspace);
  const int64_t threads = std::min<int64_t>(context.num_threads, p.sequences.count() * p.heads);
  Plan plan = {};
  plan.capacity = std::min(p.budget, p.sequences.length);
  plan.selected = workspace.take<uint64_t>(threads * plan.capacity);
  return plan;
}

void Forward::run(const Params& p, const Plan& plan, const Context& context, void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_forward(p, plan, stream);
  }
  host_forward(p, plan, context.num_threads);
}

}  // namespace hax::key_select
