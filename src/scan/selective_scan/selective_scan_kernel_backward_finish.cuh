// What a block of the selective scan's backward makes of a tile that its warps went through: the gradients of its
// elements, and what it adds to those of B, C and the parameters.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_backward_fetch.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_packed.cuh"

namespace hax::selective_scan {

// What staging leaves to finishing.
template <class S>
struct Staged {
  // The next tile's are written while others still read.
  Weights weights[2][S::kAccurate ? 1 : S::kPlaces / 4];
  // Of each staging thread.
  float4 u[S::kStagers], g[S::kStagers];
  float4 of_y[S::kStagers], of_dt[S::kStagers];
  float4 skip_sums[S::kStagers], bias_sums[S::kStagers];  // over its tiles

  __device__ void clear() {
    for (int i = thread_index(); i < S::kStagers; i += S::kThreads) {
      skip_sums[i] = bias_sums[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    auto* const all = &weights[0][0];
    for (int i = thread_index(); i < static_cast<int>(sizeof(weights) / sizeof(Weights));
         i += S::kThreads) {
      all[i] = make_uint4(0, 0, 0, 0);
    }
  }
  // Of D (0) or delta_bias (1).
  __device__ float parameter_sum(int which, int channel, int width) const {
    const auto* const sums = reinterpret_cast<const float*>(which ? bias_sums : skip_sums);
    float sum = 0.0f;
    for (int t = 0; t < S::kTile; ++t) {
      const int in_warp =
          (channel / kWarpChannels * S::kTile + t) * kWarpChannels + channel % kWarpChannels;
      sum += sums[S::kAlone ? in_warp : t * width + channel];
    }
    return sum;
  }
};

template <class S>
struct BackwardShared {
  TileShared<S> tile;
  alignas(16) TileRows<S> rows[S::kVectors ? 2 : 1];  // the next tile's too
  typename Products<S>::Memory warps[S::kWarps];
  std::conditional_t<S::kPacked, PackedStaged<S>, Staged<S>> staged;
  // Each lane's numbers where the next tile starts.
  uint4 next[kStartVectors<S>][S::kVectors ? S::kThreads : 1];
  // Of what the block has of a sequence in its segment.
  struct Piece {
    const StartNumber<S>* states;  // of the block where its tiles start, plan.numbers apart
    const float* elapsed;          // likewise, where something comes into the walk
    const float* carry;            // what comes into the walk
    bool starts;                   // with the sequence's first token
  } piece;
  float* shares;  // of the segment's first token
};

template <class S>
__device__ void keep_elements(BackwardShared<S>& shared, const ElementPlace<S>& place,
                              const Elements& e, int buffer) {
  Staged<S>& staged = shared.staged;
  store_four(&staged.u[place.thread], e.u);
  store_four(&staged.g[place.thread], e.g);
  store_four(&staged.of_y[place.thread], e.of_y);
  store_four(&staged.of_dt[place.thread], e.of_dt);
  if constexpr (!S::kAccurate) {
    staged.weights[buffer][S::place_of(place.token, place.channel) / 4] = make_uint4(
        device::pack_pair<bf16>(e.dtu[0], e.dtu[2]), device::pack_pair<bf16>(e.g[0], e.g[2]),
        device::pack_pair<bf16>(e.dtu[1], e.dtu[3]), device::pack_pair<bf16>(e.g[1], e.g[3]));
  }
}

template <class S>
__device__ void finish_elements(BackwardShared<S>& shared, const BackwardParams& p,
                                const CudaBackwardPlan& plan, const Tile& tile, int channels) {
  const ElementPlace<S> place(plan, channels);
  if (!place.active || place.token >= tile.tokens) return;
  using Stream = typename TileShared<S>::Stream;
  const Stream to_du = shared.tile.streams[kDu], to_ddelta = shared.tile.streams[kDdelta],
               to_dz = shared.tile.streams[kDz];
  float sums[3][4];
  const int first = place.channel / kWarpChannels * S::state_tiles(plan);
#pragma unroll
  for (int which = 0; which < 3; ++which) {
    load_four(sums[which],
              &shared.warps[first].sums[which][place.token][place.channel % kWarpChannels]);
  }
  for (int i = first + 1; i < first + S::state_tiles(plan); ++i) {
#pragma unroll
    for (int which = 0; which < 3; ++which) {
      float part[4];
      load_four(part, &shared.warps[i].sums[which][place.token][place.channel % kWarpChannels]);
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[which][e] += part[e];
    }
  }
  // Products in tf32 cut lanes' sums off, which takes 0.72 * 2^-11 of them on average.
  constexpr float kOfRates = device::kLn2 * (S::kAccurate ? 1.0f : 1.00035f);
  Staged<S>& staged = shared.staged;
  float u[4], g[4], of_y[4], of_dt[4], dt[4], skip[4], skip_sum[4], bias_sum[4];
  load_four(u, &staged.u[place.thread]);
  load_four(g, &staged.g[place.thread]);
  load_four(of_y, &staged.of_y[place.thread]);
  load_four(of_dt, &staged.of_dt[place.thread]);
  load_four(dt, &shared.tile.dt[S::place_of(place.token, place.channel)]);
  load_four(skip, &shared.tile.skip[place.channel]);
  load_four(skip_sum, &staged.skip_sums[place.thread]);
  load_four(bias_sum, &staged.bias_sums[place.thread]);
  float du[4], ddelta[4], dz[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    du[i] = fmaf(dt[i], sums[0][i], skip[i] * g[i]);
    ddelta[i] = fmaf(u[i], sums[0][i], kOfRates * sums[1][i]) * of_dt[i];
    dz[i] = of_y[i] * fmaf(skip[i], u[i], sums[2][i]);
    skip_sum[i] = fmaf(g[i], u[i], skip_sum[i]);
    bias_sum[i] += ddelta[i];
  }
  store_four(&staged.skip_sums[place.thread], skip_sum);
  store_four(&staged.bias_sums[place.thread], bias_sum);
  const auto store = [&](const Tensor& tensor, const Stream& stream, const float(&values)[4]) {
    if (!tensor) return;
    store_elements<S>(values, element_at<S>(stream, tensor, tile, place), tensor,
                      channels - place.channel);
  };
  store(p.du, to_du, du);
  store(p.ddelta, to_ddelta, ddelta);
  store(p.dz, to_dz, dz);
}

// Hands what the tile adds to dB and dC to its slice's row of plan.shares.
template <class S>
__device__ void flush_shares(BackwardShared<S>& shared, const BackwardParams& p,
                             const CudaBackwardPlan& plan, const Tile& tile, int buffer,
                             bool first_of_slice) {
  const int states = static_cast<int>(p.states);
  const int64_t step = 2 * p.groups * p.states;
  float* const shares = shared.shares + tile.first * step;
  const auto to = [&](int which, int t, int n, const float(&sums)[4]) {
    if (t >= tile.tokens || n >= states) return;
    float* const row = shares + t * step + (which * states + n);
    if (states % 4 == 0) {
      float4* const four = reinterpret_cast<float4*>(row);
      float4 sum = make_float4(sums[0], sums[1], sums[2], sums[3]);
      if (!first_of_slice) {
        const float4 before = *four;
        sum = make_float4(before.x + sum.x, before.y + sum.y, before.z + sum.z, before.w + sum.w);
      }
      *four = sum;
      return;
    }
#pragma unroll 1
    for (int i = 0; i < 4 && n + i < states; ++i) {
      const float sum = i == 0 ? sums[0] : i == 1 ? sums[1] : i == 2 ? sums[2] : sums[3];
      row[i] = first_of_slice ? sum : row[i] + sum;
    }
  };
  if constexpr (S::kAccurate) {
    add_shares<S>(shared.warps, S::state_tiles(plan), to);
  } else {
    sum_channels<S>(shared.warps, shared.staged.weights[buffer], S::state_tiles(plan), to);
  }
}

// Leaves what a segment adds to dA, dD and ddelta_bias in its row of plan.sums.
template <class S>
__device__ void store_sums(BackwardShared<S>& shared, const BackwardParams& p,
                           const CudaBackwardPlan& plan, const float (&dA)[8]) {
  const Work& work = shared.tile.work;
  float* const to = plan.sums +
                    (work.row * plan.segments + work.part) * (p.states + 2) * p.channels +
                    work.channels.first;
  LanePlace(S::state_tiles(plan)).for_each([&](int k, int c, int n) {
    if (c < work.channels.count && n < p.states) to[n * p.channels + c] = dA[k];
  });
  __syncthreads();
  const int width = S::width(plan);
  for (int i = thread_index(); i < 2 * width; i += S::kThreads) {
    const int which = i / width, c = i % width;
    if (c >= work.channels.count) continue;
    to[(p.states + which) * p.channels + c] = shared.staged.parameter_sum(which, c, width);
  }
}

}  // namespace hax::selective_scan
