// A warp's way through a tile: forward, computing its states again from the one it starts with, then back.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_backward_packed_products.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_plain.cuh"

namespace hax::selective_scan {

template <class S>
using Products =
    std::conditional_t<S::kAccurate, PlainProducts<S>,
                       std::conditional_t<S::kPacked, PackedProducts<S>, TensorProducts<S>>>;

// dt of the lane's channels.
template <class S>
__device__ float2 steps_at(const TileShared<S>& tile, const LanePlace& place, int t) {
  return *reinterpret_cast<const float2*>(&tile.dt[S::place_of(t, place.channel)]);
}

// h: the state before the tile. dh: gradient of the state behind it, then before it. Decays stay in registers,
// states in the warp's memory. midway: called when most of the decays'
// registers are free again.
template <class S, class F>
__device__ void scan_tile_back(Products<S>& products, const TileShared<S>& tile,
                               typename Products<S>::Memory& own, const LanePlace& place,
                               const float (&rate)[8], float (&h)[8], float (&dh)[8],
                               float (&dA)[8], F&& midway) {
  constexpr int kTokens = Products<S>::kTokens;
  float decays[S::kTile][8];  // of the first few, on the way forward only
#pragma unroll
  for (int t = 0; t < S::kTile; ++t) {
    if (t % kTokens == 0) products.ready_inputs(t / kTokens);
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
  products.ready_sums(rate);
  products.keep_last(own, h);
#pragma unroll
  for (int t = S::kTile - 1; t >= 0; --t) {
    if (t % kTokens == kTokens - 1) products.ready_outputs(t / kTokens);
    const float2 steps = steps_at(tile, place, t);
    const float dt[2] = {steps.x, steps.y};
    products.add_output(dh, t);
    products.take_gradient(own, dh, t);
    const bool again = t < S::kDecaysAgain;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      dh[k] = S::decayed(again ? S::decay(dt[k / 2 % 2] * rate[k]) : decays[t][k], dh[k]);
    }
    products.take_rates(own, dh, rate, dt, dA, t);
    if (t == S::kPrefetchAt) midway();
  }
  products.store(own, dA);
}

}  // namespace hax::selective_scan
