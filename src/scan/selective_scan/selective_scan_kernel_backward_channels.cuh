// Sums over channels on tensor cores: what a tile gives to dB and dC, from the packs of all the block's warps.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_backward_packed_products.cuh"

namespace hax::selective_scan {

// What the operands of four channels of a token are for sums over channels: dt u, then g, of the first and
// third; the same of the others.
using Weights = uint4;

// Those of a token's 16 channels from `channel` on.
template <class S>
__device__ void load_weights(uint32_t (&to)[4], const Weights (&weights)[S::kPlaces / 4], int t,
                             int channel, int lane) {
  const Weights weight = weights[S::place_of(t, channel) / 4 + lane % 4];
  to[0] = weight.x, to[1] = weight.y, to[2] = weight.z, to[3] = weight.w;
}

// Weights for sums over channels: pairs of the even channels' dt u, g, then of the odd ones', of each token.
template <class S>
using PackedWeights = uint32_t[S::kWarps][4][kPackedTile][4];

template <class S>
__device__ void store_weights(PackedWeights<S>& weights, const PackedScales& scales,
                              const LanePlace& place) {
  device::store_matrix_x4_transposed(
      device::shared_address(&weights[place.warp][place.lane / 8][place.lane % 8][0]),
      {scales[0][0], scales[1][0], scales[0][1], scales[1][1]});
}
template <class S>
__device__ void load_weights(uint32_t (&to)[4], const PackedWeights<S>& weights, int t, int channel,
                             int lane) {
  device::load_matrix_x4(to, &weights[channel / kWarpChannels][lane / 8][t][0]);
}

// What a block adds to dB and dC, from its warps' packs: to(which, token, first of four states, sums).
template <class S, class Memory, class AllWeights, class F>
__device__ void sum_channels(const Memory (&warps)[S::kWarps], const AllWeights& weights,
                             int state_tiles, F&& to) {
  const int lane = thread_index() % device::kWarp, which = lane / 4;
  const int own = thread_index() / device::kWarp;
  const int items = S::kTile * (S::kAlone ? 1 : state_tiles) / S::kWarps;
#pragma unroll(S::kAlone ? S::kTile / S::kWarps : 1)
  for (int item = 0; item < items; ++item) {
    const int t = (own + item * S::kWarps) % S::kTile;
    const int state_tile = S::kAlone ? 0 : (own + item * S::kWarps) / S::kTile;
    float dB[2][4] = {}, dC[2][4] = {};
#pragma unroll
    for (int i = 0; i < S::kMostChannels / kWarpChannels; ++i) {
      const int warp = S::kAlone ? i : i * state_tiles + state_tile;
      if (warp >= S::kWarps) break;
      uint32_t a[4], gradient[4], state[4];
      load_weights<S>(a, weights, t, kWarpChannels * i, lane);
      device::load_matrix_x4_transposed(gradient, warps[warp].gradients[t] + lane);
      device::load_matrix_x4_transposed(state, warps[warp].states[t + 1] + lane);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        device::mma_16x8x16<bf16>(dB[j], a, {gradient[2 * j], gradient[2 * j + 1]});
        device::mma_16x8x16<bf16>(dC[j], a, {state[2 * j], state[2 * j + 1]});
      }
    }
    // Rows 0 to 7 are weighted with dt u, the others with g; all of a kind are the same.
    const float sums[4] = {which ? dC[0][2] : dB[0][0], which ? dC[1][2] : dB[1][0],
                           which ? dC[0][3] : dB[0][1], which ? dC[1][3] : dB[1][1]};
    if (which < 2) to(which, t, state_tile * kWarpStates + lane % 4 * 4, sums);
  }
}

}  // namespace hax::selective_scan
