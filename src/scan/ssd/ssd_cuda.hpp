// What plan and launch of ssd's CUDA kernels share.
#pragma once

#include <cstdint>

#include "core/integer.hpp"
#include "core/tensor.hpp"

namespace hax::ssd {

inline constexpr int kChunk = 64;      // tokens whose products are taken together
inline constexpr int kTileRows = 16;   // rows of a head's state that a warp holds
inline constexpr int kSliceRows = 64;  // rows that a unit of work holds at most

// Forward of 16-bit activations. A unit of work is a head or, beyond 64 rows, a slice of one; `warps` warps hold its
// rows, a block has `units` of them. Without `slots` a block takes a sequence; otherwise all sequences' chunks, those
// of a column (a sequence and its units) one after the other, are dealt out to `slots` blocks, `share` to each. If every
// column is cut once at most, a block hands the state over to the next one; else a first pass tells what the pieces add.
struct CudaForwardPlan {
  int warps = 0, units = 0;
  int residents = 1;  // blocks that share a multiprocessor
  int64_t slots = 0, share = 0;
  float* states = nullptr;  // (slots, a block's rows, N padded): of the slot's last piece
  float* decays = nullptr;  // (slots, units): by how much a state decays over that piece
  int* ready =
      nullptr;  // (slots): whether the state has been handed over; none: there is a first pass
};

// N as the kernels pad it.
HAX_EVERYWHERE constexpr int64_t padded_states(int64_t states) {
  return states <= 32 ? 32 : states <= 64 ? 64 : states <= 128 ? 128 : 256;
}
HAX_EVERYWHERE constexpr int64_t slices(int64_t width) {
  return (width + kSliceRows - 1) / kSliceRows;
}

}  // namespace hax::ssd
