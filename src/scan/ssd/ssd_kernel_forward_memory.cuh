// What a thread block of ssd's forward works on and keeps in shared memory.
#pragma once

#include "scan/ssd/ssd_kernel_chunk.cuh"

namespace hax::ssd {

// Threads of a block at most: a state of 256 takes twice the registers.
template <int N>
inline constexpr int kForwardThreads = N > 128  ? 256
                                       : N > 32 ? 384
                                                : 512;

// Which tensors can be moved in accesses of 16 bytes.
struct ForwardAccess {
  bool x, z, y, states;
};

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
struct Unit {
  int64_t x;        // offset of its columns in a token's
  int head, first;  // its first row
  int columns;      // rows of the state, columns of x
  float rate, bias;
};

// Bytes of a block's shared memory.
inline size_t forward_memory(int64_t states, Stages stages, int units, int warps, bool output) {
  const int64_t tile = kChunk * states * 2, mix = units * kChunk * kChunk * 2;
  return static_cast<size_t>(stages.states * (output ? 2 : 1) * tile +
                             stages.inputs() * int64_t{units} * kChunk * warps * kTileRows * 2 +
                             (output ? stages.mixes() * mix : 0) +
                             stages.decays() * units * static_cast<int64_t>(sizeof(Decays)) +
                             units * static_cast<int64_t>(sizeof(Unit)));
}

// Units of a block: rows of heads, all of one group.
struct UnitBlock {
  int64_t group, first;
  int count;

  __device__ UnitBlock(const Inputs& in, int64_t index, int units) {
    const int64_t all = in.heads / in.groups * slices(in.width);
    const int64_t blocks = (all + units - 1) / units;
    const int64_t begin = index % blocks * units;
    group = index / blocks;
    first = group * all + begin;
    count = static_cast<int>(min(int64_t{units}, all - begin));
  }
};

inline int64_t unit_blocks(const Inputs& in, int units) {
  return in.groups > 0 ? in.groups * ceil_div(in.heads / in.groups * slices(in.width), units) : 0;
}

}  // namespace hax::ssd
