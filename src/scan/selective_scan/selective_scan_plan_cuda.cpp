#include "scan/selective_scan/selective_scan.hpp"

namespace hax::selective_scan {
namespace {

// Blocks that a GPU of 132 multiprocessors runs at once on the way back (bf16 with one tile of states, otherwise)
// and in the sweep; from how many on segments wait for each other; that keep it busy to the end.
constexpr int64_t kPackedAtOnce = 528, kAtOnce = 396, kSweepsAtOnce = 528;
constexpr int64_t kEnoughToWait = 396, kEnoughBlocks = 1584;
// Of a segment's tokens: fewer are not worth the hand-over, more gather rounding.
constexpr int64_t kFewestTokens = 128, kMostTokens = 4096;

// Segments of a row, `least` or somewhat more: as many as leave the GPU idle least at the end.
int64_t well_filling(int64_t wide, int64_t least, int64_t most, int64_t at_once) {
  int64_t best = least;
  const auto rounds = [&](int64_t segments) { return ceil_div(wide * segments, at_once); };
  for (int64_t n = least + 1; n <= smaller(most, least + least / 2 + 1); ++n) {
    if (rounds(n) * best < rounds(best) * n) best = n;
  }
  return best;
}

}  // namespace

CudaForwardPlan plan_cuda_forward(const ForwardParams& p, Workspace& workspace) {
  constexpr int64_t kChannels = 16, kStates = 16, kTile = 8;
  CudaForwardPlan plan;
  if (p.u.type != Type::bf16 || p.states != kStates || p.sequences.packed() || p.checkpoints) {
    return plan;
  }
  if (p.length < kFewestSegmentedTokens &&
      p.batch * p.length * p.channels < kFewestSegmentedElements) {
    return plan;
  }
  const int64_t warps =
      p.groups > 0 ? p.batch * p.groups * ceil_div(p.channels / p.groups, kChannels) : 0;
  if (warps == 0) return plan;
  const int64_t segments = smaller(kSegmentWarps / warps, p.length / kFewestSegmentTokens);
  if (segments < 2) return plan;
  plan.segment = round_up(ceil_div(p.length, segments), kTile);
  plan.segments = ceil_div(p.length, plan.segment);
  plan.walks = ceil_div(plan.segment, kSegmentWalk);
  const int64_t places = p.batch * plan.segments;
  plan.made = workspace.take<float>(places * p.channels * p.states);
  plan.carried = workspace.take<float>(places * p.channels * p.states);
  plan.elapsed = workspace.take<float>(places * plan.walks * p.channels);
  return plan;
}

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

  const int64_t wide = larger(1, p.batch * blocks);
  const int64_t at_once = p.u.type == Type::bf16 && plan.state_tiles == 1 ? kPackedAtOnce : kAtOnce;
  const bool wait = wide >= kEnoughToWait;
  const int64_t wanted = wait ? ceil_div(kEnoughBlocks, wide) : at_once / wide;
  const int64_t most = larger(1, p.length / kFewestTokens);
  const int64_t least = larger(ceil_div(p.length, kMostTokens), smaller(wanted, most));
  plan.segments = wide * least > at_once ? well_filling(wide, least, most, at_once) : least;
  plan.segment = round_up(ceil_div(p.length, larger(1, plan.segments)), tile);
  plan.segments = p.length > 0 ? ceil_div(p.length, plan.segment) : 0;
  // Blocks of channels taken one after the other add to the same shares of dB and dC; where segments wait
  // for each other the wait would cost more than the shares.
  const int64_t passes = wait ? 1 : smaller(plan.segments * wide / kEnoughBlocks, plan.per_group);
  plan.slices = ceil_div(plan.per_group, larger(1, passes));
  // States that the caller has need no carry from walk to walk.
  const int64_t walks = wait || p.checkpoints ? 1 : larger(1, kSweepsAtOnce / wide);
  plan.walk = ceil_div(larger(1, plan.segments), smaller(walks, larger(1, plan.segments)));
  plan.walks = ceil_div(plan.segments, plan.walk);
  plan.slots = ceil_div(p.length, tile);
  plan.numbers = blocks * plan.warps * kWarpNumbers;

  const int64_t starts = p.batch * plan.slots * plan.numbers;
  if (p.u.type == Type::fp32) {
    plan.states = workspace.take<float>(starts);
  } else {
    plan.states = workspace.take<bf16>(starts);
  }
  if (plan.walks > 1) {
    plan.elapsed = workspace.take<float>(p.batch * plan.slots * blocks * plan.width);
    plan.walk_states = workspace.take<float>(p.batch * plan.walks * plan.numbers);
    plan.carried = workspace.take<float>(p.batch * plan.segments * plan.numbers);
  }
  if (plan.segments > 1) {
    plan.adjoints = workspace.take<float>(p.batch * plan.segments * plan.numbers);
    if (wait) {
      plan.turns = workspace.take<int>(1);
      plan.handed_over = workspace.take<int>(p.batch * plan.segments * blocks);
    } else {
      plan.decays = workspace.take<float>(p.batch * plan.segments * plan.numbers);
    }
  }
  if (p.dB || p.dC) {
    plan.shares = workspace.take<float>(plan.slices * p.batch * p.length * p.groups * 2 * p.states);
  }
  plan.sums = workspace.take<float>(p.batch * plan.segments * (p.states + 2) * p.channels);
  return plan;
}

}  // namespace hax::selective_scan
