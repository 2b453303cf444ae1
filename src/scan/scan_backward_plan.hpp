// How the scans' backward walks long sequences in bounded memory.
//
// Every batch row is cut into segments of tokens. A forward sweep leaves the state at the segments'
// boundaries; then the segments are walked from the last to the first, each with a sweep of its own
// that leaves a state at every tile, from which the tile's states are recomputed. Within a segment
// blocks run in parallel; each leaves its share of dB and dC, and the shares are added in order before
// the next segment. Rows are taken `rows` at a time. Neither cut depends on the number of threads.
#pragma once

#include "core/tensor.hpp"
#include "core/workspace.hpp"
#include "scan/scan_blocks.hpp"

namespace hax {

struct ScanBackwardPlan {
  ScanBlocks blocks;
  int64_t states;      // N
  int64_t segment;     // tokens of a segment, a multiple of kScanTile
  int64_t segments;    // of a row
  int64_t rows;        // batch rows handled together
  int64_t state_size;  // floats of a block's state
  int64_t sums_size;   // doubles of a block's parameter gradients
  float*
      boundaries;  // (rows, blocks, segments - 1, state_size): states where segments 1, 2, ... start
  float* carry;    // (rows, blocks, state_size): dstate handed from a segment to the one before
  float* shares;   // (rows, blocks, segment, 2, N): dB and dC
  double* sums;    // (rows, blocks, sums_size)
  ThreadScratch scratch;

  HAX_INLINE int64_t index(int64_t slot, int64_t block) const {
    return slot * blocks.count() + block;
  }
  HAX_INLINE float* boundary(int64_t slot, int64_t block, int64_t j) const {
    return boundaries + (index(slot, block) * (segments - 1) + j - 1) * state_size;
  }
  HAX_INLINE float* carry_of(int64_t slot, int64_t block) const {
    return carry + index(slot, block) * state_size;
  }
  // Shares of the segment's token t: dB, then dC.
  HAX_INLINE float* share(int64_t slot, int64_t block, int64_t t) const {
    return shares + (index(slot, block) * segment + t) * 2 * states;
  }
  HAX_INLINE double* sums_of(int64_t slot, int64_t block) const {
    return sums + index(slot, block) * sums_size;
  }
  HAX_INLINE int64_t tiles() const { return segment / kScanTile; }
};

// All but `scratch`.
ScanBackwardPlan plan_scan_backward(const Sequences& sequences, const ScanBlocks& blocks,
                                    int64_t states, int64_t state_size, int64_t sums_size,
                                    Workspace& workspace);

}  // namespace hax
