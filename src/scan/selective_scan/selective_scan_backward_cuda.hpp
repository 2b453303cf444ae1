// What the plan of the selective scan's CUDA backward and its launches share.
#pragma once

#include "core/integer.hpp"
#include "core/tensor.hpp"

namespace hax::selective_scan {

// A warp holds 16 channels by 16 states, 8 of the 256 numbers a lane. Blocks are of kFewWarps for up to
// 64 states and of kManyWarps beyond; they go through their tokens in tiles.
inline constexpr int kWarpChannels = 16, kWarpStates = 16,
                     kWarpNumbers = kWarpChannels * kWarpStates;
inline constexpr int kFewWarps = 4, kManyWarps = 16;
inline constexpr int backward_tile(int warps) { return warps == kFewWarps ? 8 : 4; }

// Rows are cut into segments of tokens, whatever sequences lie there; a block goes through a segment. A sweep
// ahead, through `walk` segments at a time, finds the states where tiles start and, where channels are too
// few to keep a GPU busy by themselves, what segments hand to each other.
struct CudaBackwardPlan {
  int warps;            // of a block
  int state_tiles;      // warps that share their channels
  int64_t width;        // channels of a block
  int64_t per_group;    // blocks of channels of a group
  int64_t slices;       // blocks of channels of a group that run side by side
  int64_t segment;      // tokens, a multiple of the tile
  int64_t segments;     // of a row
  int64_t walk, walks;  // segments of a walk, walks of a row
  int64_t slots;        // tiles of a row
  int64_t numbers;      // of all blocks of channels at one token, as warps hold them

  // (B, slots, numbers): where tiles start, seen from the walk's start; bf16 for 16-bit activations, else fp32.
  void* states;
  float* elapsed;      // (B, slots, blocks, width): sums of dt since the walk's start; if walks > 1
  float* walk_states;  // (B, walks, numbers): at walks' ends; if walks > 1
  float* carried;      // (B, segments, numbers): what comes into segments' walks; if walks > 1
  // If segments > 1, either they run side by side: what each gives to the gradient of the state before it,
  // and its decay as a whole, 0 with a sequence's end in it.
  float *adjoints, *decays;  // (B, segments, numbers)
  // Or they wait for the segment behind them, whose adjoints are what comes in.
  int* turns;        // (1): blocks that have started
  int* handed_over;  // (B, segments, blocks): whether `adjoints` is there
  float* shares;     // (slices, B, L, G, 2, N): what each slice adds to dB and dC
  float* sums;       // (B segments, N + 2, D): what each segment adds to dA, dD, ddelta_bias
};

}  // namespace hax::selective_scan
