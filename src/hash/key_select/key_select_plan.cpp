#include <algorithm>

#include "core/backend.hpp"
#include "hash/key_select/key_select.hpp"

namespace hax::key_select {

Plan Forward::plan(const Params& p, const Context& context, Workspace& workspace) {
  require_cpu(p.device, name);
  const int64_t threads = std::min<int64_t>(context.num_threads, p.sequences.count() * p.heads);
  Plan plan;
  plan.capacity = std::min(p.budget, p.sequences.length);
  plan.selected = workspace.take<uint64_t>(threads * plan.capacity);
  return plan;
}

void Forward::run(const Params& p, const Plan& plan, const Context& context, void*) {
  host_forward(p, plan, context.num_threads);
}

}  // namespace hax::key_select
