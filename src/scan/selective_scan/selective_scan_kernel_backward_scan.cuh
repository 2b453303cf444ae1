// A warp's way through a tile: forward, computing its states again from the one it starts with, then back.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_backward_plain.cuh"

namespace hax::selective_scan {

// dt of the lane's channels.
template <class S>
__device__ float2 steps_at(const TileShared<S>& tile, const LanePlace& place, int t) {
  return *reinterpret_cast<const float2*>(&tile.dt[S::place_of(t, place.channel)]);
}

// h: the state before the tile. dh: gradient of the state behind it, then before it. Decays stay in registers,
// states in the warp's memory.
template <class S>
__device__ void scan_tile_back(const TileShared<S>& tile, const TileRows<S>& rows,
                               typename Products<S>::Memory& own, const LanePlace& place,
                               const float (&rate)[8], float (&h)[8], float (&dh)[8],
                               float (&dA)[8]) {
  Products<S> products(tile, rows, place);
  float decays[S::kTile][8];
#pragma unroll
  for (int t = 0; t < S::kTile; ++t) {
    if (t % kGroup == 0) products.ready_inputs(t / kGroup);
    const float2 steps = steps_at(tile, place, t);
    const float dt[2] = {steps.x, steps.y};
    products.keep(own, h, t);
    float added[8] = {};
    products.add_input(added, t);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      decays[t][k] = S::decay(dt[k / 2 % 2] * rate[k]);
      h[k] = S::decayed(decays[t][k], h[k], added[k]);
    }
  }
  products.ready_sums();
  products.keep_last(own, h);
#pragma unroll
  for (int t = S::kTile - 1; t >= 0; --t) {
    if (t % kGroup == kGroup - 1) products.ready_outputs(t / kGroup);
    const float2 steps = steps_at(tile, place, t);
    const float dt[2] = {steps.x, steps.y};
    products.add_output(dh, t);
    products.take_gradient(own, dh, t);
    products.recall(own, h, t);
    float part[2] = {};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int m = k / 2 % 2;
      dh[k] = S::decayed(decays[t][k], dh[k]);
      const float faded = dh[k] * h[k];
      part[m] = fmaf(faded, rate[k], part[m]);
      dA[k] = fmaf(faded, dt[m], dA[k]);
    }
    products.take_rates(own, part, t);
  }
  products.store(own);
}

}  // namespace hax::selective_scan
