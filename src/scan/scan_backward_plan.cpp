#include "scan/scan_backward_plan.hpp"

#include <cmath>

namespace hax {
namespace {

// States at boundaries (L / segment of them) and in a segment (segment / kScanTile) are fewest together
// where both counts are equal. Short sequences stay in one segment, which spares them a sweep, while the
// states in it fit a cache.
int64_t segment_tokens(int64_t length, int64_t state_size) {
  constexpr int64_t kCachedFloats = int64_t{1} << 19;
  const int64_t cached = kCachedFloats / larger(1, state_size) * kScanTile;
  const int64_t unsplit = larger(512, smaller(2048, cached));
  const auto balanced =
      static_cast<int64_t>(std::sqrt(static_cast<double>(kScanTile) * static_cast<double>(length)));
  return round_up(smaller(length, larger(unsplit, balanced)), kScanTile);
}

}  // namespace

ScanBackwardPlan plan_scan_backward(const Sequences& sequences, const ScanBlocks& blocks,
                                    int64_t states, int64_t state_size, int64_t sums_size,
                                    Workspace& workspace) {
  constexpr int64_t kFloatsTogether = int64_t{1} << 23;  // of the rows handled together
  ScanBackwardPlan plan = {};
  plan.blocks = blocks;
  plan.states = states;
  plan.state_size = state_size;
  plan.sums_size = sums_size;
  plan.segment = segment_tokens(sequences.length, state_size);
  plan.segments = plan.segment > 0 ? ceil_div(sequences.length, plan.segment) : 0;
  const int64_t floats_per_row = blocks.count() * (larger(plan.segments, 1) * state_size +
                                                   plan.segment * 2 * states + 2 * sums_size);
  plan.rows = smaller(sequences.batch, larger(1, kFloatsTogether / larger(1, floats_per_row)));
  const int64_t together = plan.rows * blocks.count();
  plan.boundaries = workspace.take<float>(together * larger(0, plan.segments - 1) * state_size);
  plan.carry = workspace.take<float>(together * state_size);
  plan.shares = workspace.take<float>(together * plan.segment * 2 * states);
  plan.sums = workspace.take<double>(together * sums_size);
  return plan;
}

}  // namespace hax
