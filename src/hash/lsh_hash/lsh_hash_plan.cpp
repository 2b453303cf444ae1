#include "core/backend.hpp"
#include "core/cpu_dispatch.hpp"
#include "hash/lsh_hash/lsh_hash.hpp"

namespace hax::lsh_hash {
namespace {

CudaPlan plan_cuda(const Params& p, Workspace& workspace) {
  const bool sums = p.statistics != HAX_LSH_STATISTICS_NONE && p.long_rows();
  const bool norms = p.statistics == HAX_LSH_STATISTICS_SEQUENCE && p.long_rows();
  CudaPlan plan;
  plan.sums = workspace.take<double>(sums ? p.cuda_tiles().slots() * p.heads * 2 * p.features : 0);
  plan.norms = workspace.take<float>(norms ? p.sequences.count() * p.heads * 3 * p.features : 0);
  return plan;
}

}  // namespace

BothPlans Forward::plan(const Params& p, const Context&, Workspace& workspace) {
  BothPlans plan;
  if (use_cuda(p.device, name)) {
    plan.cuda = plan_cuda(p, workspace);
    return plan;
  }
  const bool uses_moments = p.statistics != HAX_LSH_STATISTICS_NONE;
  plan.cpu.R_panels = workspace.take<float>(p.features * kMaxColumns);
  plan.cpu.moments = workspace.take<double>(
      uses_moments ? p.tiles().slots() * p.heads * 2 * p.padded_features() : 0);
  return plan;
}

void Forward::run(const Params& p, const BothPlans& plan, const Context& context, void* stream) {
  if constexpr (kWithCuda) {
    if (use_cuda(p.device, name)) return cuda_forward(p, plan.cuda, stream);
  }
  with_cpu_level(context.cpu_level,
                 [&](auto level) { cpu_forward<level.value>(p, plan.cpu, context.num_threads); });
}

}  // namespace hax::lsh_hash
