// Forward of the selective scan.
#pragma once

#include "scan/selective_scan/selective_scan_kernel.cuh"

namespace hax::selective_scan {

template <class S>
struct ForwardShared {
  float2 pairs[S::kTile * S::kWidth];  // dt, dt u
  float y[S::kTile][S::kWidth + 8];    // padded against bank conflicts
  float B[S::kTile][S::kAllStates];
  float C[S::kTile][S::kAllStates];
  float bias[S::kWidth], skip[S::kWidth];  // delta_bias, D
};

// Which tensors can be moved in vectors.
struct ForwardAccess {
  bool u, delta, z, y, states;
};

// The scan of one tile from shared memory: y, or the states alone.
template <class S, bool kOutput>
__device__ void scan_tile(ForwardShared<S>& shared, Lane<S>& lane, int tokens) {
  constexpr int kTogether = S::kLanes < 8 ? S::kLanes : 8;
  static_assert(S::kTile % kTogether == 0);
#pragma unroll 1
  for (int first = 0; first < tokens; first += kTogether) {
    float sums[S::kChannels][kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int t = first + i;
      float B[S::kStates], C[S::kStates];
      load_row(B, &shared.B[t][lane.part * S::kStates]);
      if (kOutput) load_row(C, &shared.C[t][lane.part * S::kStates]);
      float2 pairs[S::kChannels];
      load_row(reinterpret_cast<float(&)[2 * S::kChannels]>(pairs),
               &shared.pairs[pair_place<S>(t, lane.channel)].x);
#pragma unroll
      for (int m = 0; m < S::kChannels; ++m) {
        const float2 pair = pairs[m];
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < S::kStates; ++k) {
          const float d = decay<S>(pair.x * lane.rate[m][k]);
          lane.h[m][k] = decayed<S>(d, lane.h[m][k], pair.y * B[k]);
          if (kOutput) sum += C[k] * lane.h[m][k];
        }
        sums[m][i] = sum;
      }
    }
    if constexpr (kOutput) {
#pragma unroll
      for (int m = 0; m < S::kChannels; ++m) {
        const float sum = device::warp_sums<S::kLanes>(sums[m], lane.part);
        if (lane.part < kTogether) shared.y[first + lane.part][lane.channel + m] = sum;
      }
    }
  }
}

// A block for every (sequence, block of channels), channels fastest. With kOutput false only states are
// written. `given`: states to go on from wherever one falls, as an earlier forward wrote them.
template <class S, bool kOutput>
__global__ void __launch_bounds__(S::kThreads, 512 / S::kThreads)
    forward_kernel(const __grid_constant__ ForwardParams p,
                   const __grid_constant__ Checkpoints given,
                   const __grid_constant__ ForwardAccess access, int64_t blocks) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<ForwardShared<S>*>(memory);
  const int64_t s = blockIdx.x / blocks;
  const BlockChannels block(p, blockIdx.x % blocks, S::kWidth);
  const Sequences::Range range = p.sequences.range(s);
  load_channels<S>(shared.bias, p.delta_bias, block);
  load_channels<S>(shared.skip, p.D, block);
  __syncthreads();
  Lane<S> lane(p, block);
  lane.load(lane.h, p.initial_state, p.initial_state.offset(s), block, p.states);

  const int c = threadIdx.x % S::kGroups * S::kElements;
  const int own_token = threadIdx.x / S::kGroups;
  const auto tile_tokens = [&](int64_t t) {
    const int64_t stop =
        min(given.next_stop(t, range.length), p.checkpoints.next_stop(t, range.length));
    return static_cast<int>(min(int64_t{S::kTile}, stop - t));
  };
  Fetched<S> u, delta, z;
  StateRows<S> rows(p, access.states);
  const auto fetch = [&](int64_t t, int tokens) {
    u.load(p.u, access.u, range.row, range.begin + t, tokens, block);
    delta.load(p.delta, access.delta, range.row, range.begin + t, tokens, block);
    if (kOutput && p.z) z.load(p.z, access.z, range.row, range.begin + t, tokens, block);
    rows.fetch(range.row, range.begin + t, tokens, block.group);
  };

  int tokens = tile_tokens(0);
  fetch(0, tokens);
  for (int64_t t = 0; t < range.length;) {
    rows.store(shared.B[0], shared.C[0], range.row, range.begin + t, tokens, block.group);
    float row[S::kElements];
    load_row(row, &shared.bias[c]);
#pragma unroll
    for (int i = 0; i < S::kElements; ++i) {
      // Beyond the tile's tokens a step of 0 leaves the state as it is.
      const float dt = own_token < tokens ? step_size<S>(delta[i] + row[i], p.softplus) : 0.0f;
      shared.pairs[pair_place<S>(own_token, c + i)] = make_float2(dt, dt * u[i]);
    }
    __syncthreads();
    const Fetched<S> this_u = u, this_z = z;
    const int64_t next = t + tokens;
    const int next_tokens = next < range.length ? tile_tokens(next) : 0;
    if (next_tokens > 0) fetch(next, next_tokens);
    scan_tile<S, kOutput>(shared, lane, tokens);
    if (given && next % given.every == 0) {
      lane.load(lane.h, given.states, given.offset(range, next), block, p.states);
    }
    if (p.checkpoints && next % p.checkpoints.every == 0) {
      lane.store(lane.h, p.checkpoints.states, p.checkpoints.offset(range, next), block, p.states);
    }
    __syncthreads();
    if (kOutput) {
      float y[S::kElements];
      load_row(y, &shared.y[own_token][c]);
      load_row(row, &shared.skip[c]);
#pragma unroll
      for (int i = 0; i < S::kElements; ++i) {
        y[i] += row[i] * this_u[i];
        if (p.z) y[i] *= device::silu(this_z[i]);
      }
      store_elements<S>(p.y, access.y, range.row, range.begin + t, tokens, block, y);
    }
    t = next;
    tokens = next_tokens;
  }
  if (p.final_state) lane.store(lane.h, p.final_state, p.final_state.offset(s), block, p.states);
}

}  // namespace hax::selective_scan
