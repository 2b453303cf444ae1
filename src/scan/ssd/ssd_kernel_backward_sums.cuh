// A tile of ssd's backward: how its warps share the products, what lies in shared memory, and the gradients of dt and A
// from sums over its tokens.
#pragma once

#include "scan/ssd/ssd_kernel_backward.cuh"

namespace hax::ssd {

HAX_EVERYWHERE constexpr int at_most(int a, int b) { return a < b ? a : b; }

template <class S>
struct TileGrids {
  static constexpr int kWarps = S::kTileWarps, kDown = S::kTokens / 16;
  template <int kColumns>
  using Tokens =
      device::WarpGrid<S::kTokens, kColumns, at_most(kWarps / kDown, kColumns / 16), kDown>;
  using Mix = Tokens<S::kTokens>;  // tokens x tokens
  using Width = Tokens<S::kWidth>;
  // Tokens x states: half of the warps have dC, the others dB.
  static constexpr int kStatesDown = S::kStates < 128 ? kDown : kWarps / 8;
  using States = device::WarpGrid<S::kTokens, S::kStates, kWarps / 2 / kStatesDown, kStatesDown>;
  // Width x states.
  static constexpr int kStateDown = S::kWidth >= 64 ? kWarps / 4 : 1;
  using State = device::WarpGrid<S::kWidth, S::kStates,
                                 at_most(kWarps / kStateDown, S::kStates / 16), kStateDown>;

  // Where all 16 warps have a block of mix, those above the diagonal have nothing to do with it and do other jobs. The
  // blocks are rotated so that all four schedulers have some below.
  static constexpr bool kSpare = Mix::kWarps == 16;
  static __device__ int mix_column(int warp) {
    if constexpr (!kSpare) return Mix::column(warp);
    const int shift = 0x1c >> (warp / 4 * 2) & 3;
    return (warp + shift) % 4 * Mix::kColumns;
  }
  // Warps 1, 2, 3, 4, 7 and 10 are spare.
  static constexpr int kFetchWarps = kSpare ? 4 : kWarps, kStoreWarps = kSpare ? 1 : kWarps;
  static constexpr int kStepWarp = 1;
  // Number of a warp among those that fetch, or -1; the same for those that store.
  static __device__ int fetch_warp(int warp) {
    if constexpr (!kSpare) return warp;
    return warp >= 2 && warp <= 4 ? warp - 2 : warp == 7 ? 3 : -1;
  }
  static __device__ int store_warp(int warp) {
    if constexpr (!kSpare) return warp;
    return warp == 10 ? 0 : -1;
  }
};

// Of one unit's tokens.
template <class S>
struct TileWeights {
  typename S::T other[S::kTokens];  // the other tile's, in the state
  device::Weight<typename S::T> from_start[S::kTokens], to_end[S::kTokens];  // the latter with dt
  float from_start_fp32[S::kTokens], to_end_fp32[S::kTokens];                // without dt
  float dt[S::kTokens];
  float D[S::kWidth];
  float over_other, over_tile;  // decays
};

// What pairs of one unit's tokens contribute to y . g, by the warps that have the parts.
template <class S>
struct TileSums {
  using G = TileGrids<S>;
  float row[G::Mix::kAcross][S::kTokens];        // with earlier tokens
  float column[G::Mix::kDown][S::kTokens];       // with later ones, without dt
  float own[S::kTokens];                         // with itself, without dt
  float from_h[G::States::kAcross][S::kTokens];  // with the state before, all units so far: C . dC
  float from_dh[G::Width::kAcross][S::kTokens];  // with the state behind, without dt
  float through[S::kTileWarps];                  // of the state before with the one behind
  float skip[G::Width::kDown][S::kWidth];        // x . g
  float pairs[S::kExact ? S::kTokens * (S::kTokens + 1) : 1];
};

template <class S>
struct TileShared {
  using T = typename S::T;
  static constexpr int kStepRows = S::kExact ? 3 : 2;
  struct Stage {
    T x[S::kTokens * S::kWidthRow], g[S::kTokens * S::kWidthRow];
    T other[S::kTokens * S::kWidthRow];  // x or g of the other tile
    T h[S::kWidth * S::kStateRow], dh[S::kWidth * S::kStateRow];
  } stages[S::kStages];
  T B[S::kTokens * S::kStateRow], C[S::kTokens * S::kStateRow];
  T other[S::kTokens * S::kStateRow];  // B or C of the other tile
  T mix[S::kTokens * S::kTokenRow];
  T dx[S::kTokens * S::kWidthRow], dz[S::kTokens * S::kWidthRow];
  float steps[3][kStepRows * S::kChunk];  // dt; cumulated exponents, their rest
  TileWeights<S> weights[2];
  TileSums<S> sums[2];
  float from_h_before[S::kTokens];
};

// The neighbours of a fragment.
template <class T>
__device__ void load_pair(float (&to)[2], const T* from) {
  device::Packed<T, 2> packed = *reinterpret_cast<const device::Packed<T, 2>*>(from);
  device::unpack(to, packed);
}

// Sums over the lanes that have the same columns of a fragment.
template <int Count>
__device__ void sum_over_rows(float (&values)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) {
#pragma unroll
    for (int distance = 4; distance < device::kWarp; distance *= 2) {
      values[i] += __shfl_xor_sync(0xffffffffu, values[i], distance);
    }
  }
}

// By one warp: to[t] = gradient of dt; returns dA. Token i's exponent dt A is part of the decays between all s < i and
// t >= i. from_h_before: sums.from_h of the units before this one, which it is added to.
template <class S>
__device__ float gradients_of_steps(TileSums<S>& sums, const float* dts, float* from_h_before,
                                    float A, float* to, int lane) {
  using G = TileGrids<S>;
  constexpr int Q = S::kTokens, K = Q > device::kWarp ? Q / device::kWarp : 1;
  const bool used = lane * K < Q;
  float through = lane < S::kTileWarps ? sums.through[lane] : 0.0f;
  through = device::warp_sum(through);
  float between = 0.0f;
  if constexpr (S::kExact) {
    static_assert(K == 1);
    // No difference of sums: pairs[t][s] becomes its sum over later t.
    float carried = 0.0f;
    for (int t = Q - 1; t > lane && used; --t) {
      carried += sums.pairs[t * (Q + 1) + lane];
      sums.pairs[t * (Q + 1) + lane] = carried;
    }
    __syncwarp();
    for (int s = 0; s < lane && used; ++s) between += sums.pairs[lane * (Q + 1) + s];
  }
  float later[K], earlier[K], dt[K], direct[K];
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const int t = used ? lane * K + i : 0;
    float row = 0.0f, column = 0.0f, from_h = 0.0f, from_dh = 0.0f;
#pragma unroll
    for (int j = 0; j < G::Mix::kAcross; ++j) {
      if (j * G::Mix::kColumns <= t) row += sums.row[j][t];
    }
#pragma unroll
    for (int j = 0; j < G::Mix::kDown; ++j) {
      if (t / G::Mix::kColumns * G::Mix::kColumns <= 16 * j) column += sums.column[j][t];
    }
#pragma unroll
    for (int j = 0; j < G::States::kAcross; ++j) from_h += sums.from_h[j][t];
#pragma unroll
    for (int j = 0; j < G::Width::kAcross; ++j) from_dh += sums.from_dh[j][t];
    const float through_h = from_h - from_h_before[t];
    __syncwarp();
    if (used) from_h_before[t] = from_h;
    dt[i] = used ? dts[t] : 0.0f;
    direct[i] = column + sums.own[t] + from_dh;
    later[i] = used ? through_h + (S::kExact ? 0.0f : row - dt[i] * column) : 0.0f;
    earlier[i] = used ? dt[i] * from_dh : 0.0f;
  }
  float all_later = 0.0f, all_earlier = 0.0f;
#pragma unroll
  for (int i = 0; i < K; ++i) {
    all_later += later[i];
    all_earlier += earlier[i];
  }
  float after = all_later, before = all_earlier;  // of lanes from this one on; up to it
#pragma unroll
  for (int distance = 1; distance < device::kWarp; distance *= 2) {
    const float next = __shfl_down_sync(0xffffffffu, after, distance);
    const float last = __shfl_up_sync(0xffffffffu, before, distance);
    if (lane + distance < device::kWarp) after += next;
    if (lane >= distance) before += last;
  }
  before -= all_earlier;
  float dA = 0.0f;
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const float dexponent = after + before + between + through;
    if (used) to[lane * K + i] = A * dexponent + direct[i];
    dA += dexponent * dt[i];
    after -= later[i];
    before += earlier[i];
  }
  return device::warp_sum(dA);
}

// By one warp: what a tile adds to a unit's columns of dD, or their sum.
template <class S>
__device__ void store_skip_gradient(const TileSums<S>& sums, float* to, bool columns, int lane) {
  float total = 0.0f;
  for (int p = lane; p < S::kWidth; p += device::kWarp) {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < TileGrids<S>::Width::kDown; ++j) sum += sums.skip[j][p];
    if (columns) to[p] = sum;
    total += sum;
  }
  total = device::warp_sum(total);
  if (!columns && lane == 0) *to = total;
}

}  // namespace hax::ssd
