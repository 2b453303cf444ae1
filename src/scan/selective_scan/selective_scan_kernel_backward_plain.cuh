// TensorProducts' interface in fp32 arithmetic, for fp32 activations.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_backward_products.cuh"

namespace hax::selective_scan {

template <class S>
struct PlainMemory : WarpSums<S> {
  float4 states[S::kTile][2][device::kWarp];  // of each lane, before each token
  float shares[2][S::kTile][kWarpStates];     // of dB and dC, over the warp's channels
};

template <class S>
class PlainProducts {
 public:
  using Memory = PlainMemory<S>;

  __device__ PlainProducts(const TileShared<S>& tile, const TileRows<S>& rows,
                           const LanePlace& place)
      : tile_(tile), rows_(rows), place_(place) {}

  static constexpr int kTokens = S::kTile;
  __device__ void ready_inputs(int) {}
  __device__ void ready_outputs(int) {}
  __device__ void add_input(float (&x)[8], int t) const { add(0, x, t); }
  __device__ void add_output(float (&x)[8], int t) const { add(1, x, t); }

  __device__ void ready_sums(const float (&)[8]) {}
  __device__ void keep(Memory& own, const float (&h)[8], int t) const {
    own.states[t][0][place_.lane] = make_float4(h[0], h[1], h[2], h[3]);
    own.states[t][1][place_.lane] = make_float4(h[4], h[5], h[6], h[7]);
  }
  __device__ void keep_last(Memory& own, const float (&h)[8]) const {
    take(own, 1, own.sums[2], h, S::kTile - 1);
  }
  __device__ void take_gradient(Memory& own, const float (&dh)[8], int t) const {
    take(own, 0, own.sums[0], dh, t);
  }
  __device__ void take_rates(Memory& own, const float (&faded)[8], const float (&rate)[8],
                             const float (&dt)[2], float (&dA)[8], int t) const {
    float h[8], part[2];
    unpack_numbers(h, own.states[t][0][place_.lane], own.states[t][1][place_.lane]);
    if (t > 0) take(own, 1, own.sums[2], h, t - 1);
    add_rates(part, faded, h, rate, dt, dA);
    sum_lanes(own.sums[1][t], part);
  }
  __device__ void store(Memory&, const float (&)[8]) const {}

 private:
  struct Operands {
    float row[4], scale[2];
  };
  __device__ Operands operands(int which, int t) const {
    Operands of;
    load_four(of.row, &rows_[which][place_.state_tile][t][4 * place_.c]);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      of.scale[m] = __uint_as_float(tile_.scales[which][S::place_of(t, place_.channel) + m]);
    }
    return of;
  }
  __device__ void add(int which, float (&x)[8], int t) const {
    const Operands of = operands(which, t);
#pragma unroll
    for (int k = 0; k < 8; ++k) x[k] = fmaf(of.scale[k / 2 % 2], of.row[k % 2 * 2 + k / 4], x[k]);
  }
  // Token t's sums of x, over states with its row, over channels with their scales.
  __device__ void take(Memory& own, int which, float (&sums)[S::kTile][kWarpChannels],
                       const float (&x)[8], int t) const {
    const Operands of = operands(which, t);
    float part[2] = {}, share[4] = {};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int m = k / 2 % 2, n = k % 2 * 2 + k / 4;
      part[m] = fmaf(x[k], of.row[n], part[m]);
      share[n] = fmaf(x[k], of.scale[m], share[n]);
    }
    sum_lanes(sums[t], part);
    // Lanes of one c: each ends with one of the four states.
    const bool odd = place_.r & 1, upper = place_.r & 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      share[i] = (odd ? share[i + 2] : share[i]) + exchange(odd ? share[i] : share[i + 2], 4);
    }
    float sum = (upper ? share[1] : share[0]) + exchange(upper ? share[0] : share[1], 8);
    sum += exchange(sum, 16);
    if (place_.r < 4) own.shares[which][t][4 * place_.c + (odd ? 2 : 0) + (upper ? 1 : 0)] = sum;
  }
  __device__ static float exchange(float value, int distance) {
    return __shfl_xor_sync(0xffffffffu, value, distance);
  }
  __device__ void sum_lanes(float (&to)[kWarpChannels], const float (&part)[2]) const {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const float sum = device::warp_sum<4>(part[m]);
      if (place_.c == 0) to[2 * place_.r + m] = sum;
    }
  }

  const TileShared<S>& tile_;
  const TileRows<S>& rows_;
  const LanePlace& place_;
};

// sum_channels() of these.
template <class S, class F>
__device__ void add_shares(const PlainMemory<S> (&warps)[S::kWarps], int state_tiles, F&& to) {
  for (int i = thread_index(); i < 2 * S::kTile * state_tiles * 4; i += S::kThreads) {
    const int c = i % 4, which = i / 4 % 2, t = i / 8 % S::kTile, state_tile = i / 8 / S::kTile;
    float sums[4] = {};
    for (int warp = state_tile; warp < S::kWarps; warp += state_tiles) {
#pragma unroll
      for (int k = 0; k < 4; ++k) sums[k] += warps[warp].shares[which][t][4 * c + k];
    }
    to(which, t, state_tile * kWarpStates + 4 * c, sums);
  }
}

}  // namespace hax::selective_scan
