// How ssd's forward deals out chunks to thread blocks.
#pragma once

#include "scan/ssd/ssd.hpp"

namespace hax::ssd {

// Tokens of the chunk that begins at t.
template <bool kPlain>
__device__ int chunk_tokens(const Checkpoints& checkpoints, int64_t t, int64_t end) {
  const int64_t stop = kPlain ? end : checkpoints.next_stop(t, end);
  return static_cast<int>(min(int64_t{kChunk}, stop - t));
}

// Units of a block: rows of heads, all of one group.
struct UnitBlock {
  int64_t group = 0, first = 0;
  int count = 0;

  UnitBlock() = default;
  __device__ UnitBlock(const Inputs& in, int64_t index, const CudaForwardPlan& plan) {
    const int64_t all = in.heads / in.groups * ceil_div(in.width, plan.rows);
    const int64_t blocks = ceil_div(all, plan.units);
    const int64_t begin = index % blocks * plan.units;
    group = index / blocks;
    first = group * all + begin;
    count = static_cast<int>(min(int64_t{plan.units}, all - begin));
  }
};

inline int64_t unit_blocks(const Inputs& in, const CudaForwardPlan& plan) {
  if (in.groups == 0) return 0;
  return in.groups * ceil_div(in.heads / in.groups * ceil_div(in.width, plan.rows), plan.units);
}

// Part of a column of chunks.
struct Piece {
  int64_t column;      // (sequence, block of units), units fastest
  int64_t begin, end;  // chunks
};

// A block's share of the columns' chunks, which lie in a row, column after column: a slot, a segment or a column.
struct Share {
  int64_t index;       // of what it leaves in the workspace
  int64_t step;        // from there back to what comes before it in its column
  int64_t chunks;      // of a column, 1 where it isn't cut
  int64_t begin, end;  // chunks of all columns

  __device__ Share(const ForwardParams& p, const CudaForwardPlan& plan, int64_t blocks,
                   int64_t index)
      : index(index), step(1), chunks(1), begin(index), end(index + 1) {
    const int64_t columns = p.sequences.count() * blocks;
    if (plan.slots > 0) {
      chunks = (p.length + kChunk - 1) / kChunk;
      begin = index * plan.share;
      end = min(columns * chunks, begin + plan.share);
    } else if (plan.segments > 1) {
      // Blocks of one segment run side by side and read the same B and C.
      step = columns;
      chunks = (p.length + kChunk - 1) / kChunk;
      const int64_t start = index % columns * chunks, first = index / columns * plan.segment_chunks;
      begin = start + first;
      end = start + min(chunks, first + plan.segment_chunks);
    }
  }
  __device__ Piece last() const {
    const int64_t column = (end - 1) / chunks;
    return {column, max(int64_t{0}, begin - column * chunks), end - column * chunks};
  }
  // The piece's tokens end here.
  __device__ int64_t end_token(const Piece& piece, int64_t length) const {
    return piece.end == chunks ? length : piece.end * kChunk;
  }

  // Calls f for every piece, from the last to the first: a state that will be handed over is made before one is needed.
  template <class F>
  __device__ void for_each_piece(F&& f) const {
    for (Share left = *this; left.begin < left.end;) {
      const Piece piece = left.last();
      f(piece);
      left.end -= piece.end - piece.begin;
    }
  }
};

// The number of the thread block's share. Blocks that wait for each other number themselves as they start, so that the one
// waited for runs already; all threads call it.
__device__ inline int64_t take_share(const CudaForwardPlan& plan) {
  if (!plan.ready) return blockIdx.x;
  __shared__ int index;
  if (threadIdx.x == 0) index = atomicAdd(plan.next, 1);
  __syncthreads();
  return index;
}

}  // namespace hax::ssd
