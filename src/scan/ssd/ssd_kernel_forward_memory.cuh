// What a thread block of ssd's forward works on and keeps in shared memory.
#pragma once

#include "scan/ssd/ssd_kernel_chunk.cuh"

namespace hax::ssd {

// Threads of a block at most. Registers must suffice: shared memory leaves too little of L1 for what would be spilled.
inline constexpr int kForwardThreads = 256;
inline constexpr int kUnitWarps = kSliceRows / kTileRows;

// Which tensors can be moved in accesses of 16 bytes.
struct ForwardAccess {
  bool x, z, y, states;
};

// What a kernel is for: the states alone, which a first pass finds, or y, where plain means that nothing has to be asked
// chunk by chunk: no gate, no D by rows, no checkpoints, and everything moves in accesses of 16 bytes.
enum class Pass { states, outputs, plain_outputs };

// What a block keeps of chunks at once: `stages` of B and C. With 3 the mix is made a chunk ahead, with 2 the next chunk
// arrives meanwhile, with 1 it does not.
struct Stages {
  int states;

  HAX_EVERYWHERE bool ahead() const { return states == 3; }
  HAX_EVERYWHERE int inputs() const { return states < 2 ? states : 2; }  // of x
  HAX_EVERYWHERE int mixes() const { return ahead() ? 2 : 1; }
  HAX_EVERYWHERE int decays() const { return ahead() ? 3 : 2; }
};

// A unit of a block: rows of a head.
struct BlockUnit {
  int64_t x;        // offset of its columns in a token's
  int head, first;  // its first row
  int columns;      // rows of the state, columns of x
  float rate, bias;
};

// Bytes of a block's shared memory.
inline size_t forward_memory(int64_t states, Stages stages, int units, bool output) {
  const int64_t tile = kChunk * states * 2, mix = units * kChunk * kChunk * 2;
  return static_cast<size_t>(stages.states * (output ? 2 : 1) * tile +
                             stages.inputs() * int64_t{units} * kChunk * kSliceRows * 2 +
                             (output ? stages.mixes() * mix : 0) +
                             stages.decays() * units * static_cast<int64_t>(sizeof(Decays)) +
                             units * static_cast<int64_t>(sizeof(BlockUnit)));
}

}  // namespace hax::ssd
