// Brings a tile of the selective scan's backward to shared memory while its block works on another.
#pragma once

#include "device/async_copy.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_tile.cuh"

namespace hax::selective_scan {

// Begins to bring a tile's vectors; `gradients`: dy and z too. The caller closes the group; the vectors are there
// behind S::sync().
template <class S>
__device__ void fetch_elements(TileShared<S>& shared, const BackwardParams& p,
                               const CudaBackwardPlan& plan, const Tile& tile, int channels,
                               bool gradients) {
  if constexpr (S::kVectors) {
    using T = typename S::T;
    constexpr int kChunk = 16 / sizeof(T);
    constexpr unsigned kTogether = S::kAlone ? device::kWarp : S::kThreads;
    constexpr unsigned kMost =
        4 * S::kTile * (S::kAlone ? kWarpChannels : S::kMostChannels) / (kChunk * kTogether);
    const unsigned thread = thread_index();
    const unsigned of_token = (S::kAlone ? kWarpChannels : S::width(plan)) / kChunk;
    const unsigned of_tensor = S::kTile * of_token;
    const int first = S::kAlone ? thread / device::kWarp * kWarpChannels : 0;
    const unsigned tensors = gradients ? p.z ? 4 : 3 : 2;
#pragma unroll
    for (unsigned k = 0; k < kMost; ++k) {
      const unsigned i = thread % kTogether + k * kTogether;
      const unsigned which = i / of_tensor;
      if (which >= tensors) break;
      const int token = i % of_tensor / of_token, channel = first + i % of_token * kChunk;
      if (token < tile.tokens && channel < channels) {
        device::copy_async_16(&shared.fetched[which][S::place_of(token, channel)],
                              shared.streams[which].at(tile.first + token) + channel);
      }
    }
  }
}

// The same for a tile's B and, where wanted, C, zeros beyond its tokens; by `threads` threads, this one being
// number `thread`.
template <class S>
__device__ void fetch_rows(TileRows<S>& rows, const TileShared<S>& shared, const BackwardParams& p,
                           const CudaBackwardPlan& plan, const Tile& tile, bool both,
                           unsigned thread, unsigned threads) {
  if constexpr (S::kVectors) {
    constexpr unsigned kChunk = 16 / sizeof(typename S::T), kOfRow = kWarpStates / kChunk;
    constexpr unsigned kOfRows = S::kTile * kOfRow;
    const unsigned state_tiles = S::state_tiles(plan);
#pragma unroll 1
    for (unsigned i = thread; i < (both ? 2 : 1) * state_tiles * kOfRows; i += threads) {
      const int which = i / kOfRows / state_tiles, j = i / kOfRows % state_tiles;
      const int token = i % kOfRows / kOfRow, part = i % kOfRow * kChunk;
      const int n = j * kWarpStates + part;
      if (n >= static_cast<int>(p.states)) continue;
      const auto& stream = shared.streams[kB + which];
      const bool used = token < tile.tokens;
      device::copy_async_16(&rows[which][j][token][part],
                            used ? stream.at(tile.first + token) + n : stream.first, used);
    }
  }
}

// Where tensors come in no vectors: at once.
template <class S>
__device__ void stage_rows(TileRows<S>& rows, const TileShared<S>& shared, const BackwardParams& p,
                           const Tile& tile, bool both, int thread, int threads) {
  if constexpr (!S::kVectors) {
    const int states = static_cast<int>(p.states), of_rows = S::kTile * states;
    for (int i = thread; i < (both ? 2 : 1) * of_rows; i += threads) {
      const int which = i / of_rows, token = i % of_rows / states, n = i % states;
      const auto* const from = shared.streams[kB + which].at(tile.first + token);
      rows[which][n / kWarpStates][token][n % kWarpStates] =
          token < tile.tokens ? from[n * (which ? p.C : p.B).stride[3]] : typename S::T{};
    }
  }
}

}  // namespace hax::selective_scan
