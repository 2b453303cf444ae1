// What plan and launch of ssd's CUDA kernels share.
#pragma once

#include <cstdint>

#include "core/integer.hpp"
#include "core/tensor.hpp"

namespace hax::ssd {

inline constexpr int kChunk = 64;      // tokens whose products are taken together
inline constexpr int kTileRows = 16;   // rows of a head's state that a warp holds
inline constexpr int kSliceRows = 64;  // rows that a unit of work holds at most

// The forward kernels of 16-bit activations.
enum class ForwardKernel {
  spans,       // up to 32 states: a block takes a span of chunks at once
  warpgroups,  // up to 128, on GPUs with products by warpgroups: a warpgroup for every unit of work
  chunks,      // others: a chunk at a time
};
inline constexpr int64_t kLeastStates = 32, kMostWarpgroupStates = 128;  // N, padded
inline constexpr int kWarpgroupUnits = 2;
constexpr int chunk_units(int64_t states) { return states <= 128 ? 2 : 1; }  // of a block
// Threads of a block that takes a span, at most: two blocks share a multiprocessor, and with it registers.
HAX_EVERYWHERE constexpr int span_threads(int rows) { return rows <= 16 ? 320 : 192; }

// A unit of work is a head or, beyond `rows` rows, a slice of one; a block has `units` of them. A column is a sequence and
// a block's units. A block takes a column, but for two cases. Where columns don't come out even, all sequences' chunks,
// column after column, are dealt out to `slots` blocks, `share` to each: every column is cut once at most, and a block
// hands its state over to the next one. Where there are fewer columns than blocks, each is cut into `segments`, and a first
// pass finds what a segment adds to the state.
struct CudaForwardPlan {
  ForwardKernel kernel = ForwardKernel::spans;
  int units = 0, rows = 0;
  int chunks = 0;  // of a span
  int64_t slots = 0, share = 0;
  int64_t segments = 1, segment_chunks = 0;
  // What a block hands over, (slots, units, rows, N padded), or what a segment adds, (segments - 1, columns, units, rows,
  // N padded), with by how much a state decays over it, (segments - 1, columns, units).
  float* states = nullptr;
  float* decays = nullptr;
  int* ready = nullptr;  // (slots, units): whether the state was handed over
  int* next = nullptr;   // slot that the next block to start takes
};

// Shared memory of a block that takes `chunks` chunks at once: B and C, x, states in rows of 40 floats, decays.
inline constexpr int kStateStride = kLeastStates + 8, kDecaysBytes = 1312;
constexpr int64_t span_bytes(int64_t chunks, int64_t units, int64_t rows) {
  return chunks * (2 * kChunk * kLeastStates * 2 + units * (kChunk * rows * 2 + kDecaysBytes)) +
         (chunks + 1) * units * rows * kStateStride * 4 + units * 4;
}

// N as the kernels pad it.
HAX_EVERYWHERE constexpr int64_t padded_states(int64_t states) {
  return states <= kLeastStates ? kLeastStates : states <= 64 ? 64 : states <= 128 ? 128 : 256;
}
HAX_EVERYWHERE constexpr int64_t slices(int64_t width) {
  return (width + kSliceRows - 1) / kSliceRows;
}

}  // namespace hax::ssd
