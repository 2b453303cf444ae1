#include "core/backend.hpp"
#include "core/cpu_dispatch.hpp"
#include "hash/lsh_hash/lsh_hash.hpp"

namespace hax::lsh_hash {

Plan Forward::plan(const Params& p, const Context&, Workspace& workspace) {
  require_cpu(p.device, name);
  const bool uses_moments = p.statistics != HAX_LSH_STATISTICS_NONE;
  Plan plan;
  plan.R_panels = workspace.take<float>(p.features * kMaxColumns);
  plan.moments = workspace.take<double>(
      uses_moments ? p.tiles().slots() * p.heads * 2 * p.padded_features() : 0);
  return plan;
}

void Forward::run(const Params& p, const Plan& plan, const Context& context, void*) {
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_forward<level.value>(p, plan, context.num_threads); });
}

}  // namespace hax::lsh_hash
