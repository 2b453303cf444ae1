#include "scan/selective_scan/selective_scan.hpp"

namespace hax::selective_scan {
namespace {

// Blocks that keep a GPU of 132 multiprocessors busy: several times as many as run at once, and for the
// sweep before, as many as run at once.
constexpr int64_t kEnoughBlocks = 1584, kEnoughWalks = 400;
// Of a segment's tokens: fewer are not worth the hand-over, more gather rounding.
constexpr int64_t kFewestTokens = 128, kMostTokens = 4096;

}  // namespace

CudaBackwardPlan plan_cuda_backward(const BackwardParams& p, Workspace& workspace) {
  CudaBackwardPlan plan = {};
  plan.warps = p.states <= kFewWarps * kWarpStates ? kFewWarps : kManyWarps;
  plan.state_tiles = 1;
  while (plan.state_tiles * kWarpStates < p.states) plan.state_tiles *= 2;
  if (plan.warps == kManyWarps) plan.state_tiles = plan.state_tiles < 8 ? 8 : plan.state_tiles;
  plan.width = plan.warps / plan.state_tiles * kWarpChannels;
  plan.per_group = p.groups > 0 ? ceil_div(p.channels / p.groups, plan.width) : 0;
  const int64_t blocks = p.groups * plan.per_group;
  const int64_t tile = backward_tile(plan.warps);

  const int64_t wanted = ceil_div(kEnoughBlocks, larger(1, p.batch * blocks));
  const int64_t even = ceil_div(p.length, wanted);
  plan.segment = round_up(smaller(kMostTokens, larger(kFewestTokens, even)), tile);
  plan.segments = ceil_div(p.length, plan.segment);
  // States that the caller has need no carry from walk to walk.
  const int64_t walks = p.checkpoints ? 1 : ceil_div(kEnoughWalks, larger(1, p.batch * blocks));
  plan.walk = ceil_div(larger(1, plan.segments), smaller(walks, larger(1, plan.segments)));
  plan.walks = ceil_div(plan.segments, plan.walk);
  const int64_t passes = larger(1, p.batch * plan.segments * blocks / kEnoughBlocks);
  plan.slices = ceil_div(plan.per_group, smaller(passes, larger(1, plan.per_group)));
  plan.slots = ceil_div(p.length, tile);
  plan.numbers = blocks * plan.warps * kWarpNumbers;

  plan.states = workspace.take<float>(p.batch * plan.slots * plan.numbers);
  if (plan.walks > 1) {
    plan.elapsed = workspace.take<float>(p.batch * plan.slots * blocks * plan.width);
    plan.walk_states = workspace.take<float>(p.batch * plan.walks * plan.numbers);
  }
  if (plan.segments > 1) {
    plan.decays = workspace.take<float>(p.batch * plan.segments * plan.numbers);
    plan.adjoints = workspace.take<float>(p.batch * plan.segments * plan.numbers);
  }
  if (p.dB || p.dC) {
    plan.shares = workspace.take<float>(plan.slices * p.batch * p.length * p.groups * 2 * p.states);
  }
  plan.sums = workspace.take<float>(p.batch * plan.segments * (p.states + 2) * p.channels);
  return plan;
}

}  // namespace hax::selective_scan
