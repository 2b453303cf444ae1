// Tiles of the selective scan's backward: a few tokens of a block's channels. Threads first go over the
// tile's elements, four channels of a token each, then warps over its states, as fragments of tensor
// cores hold them: lane 4 r + c has channels r and r + 8 with states 2c, 2c + 1, 8 + 2c and 9 + 2c. Number
// 4j + 2h + e of a lane is state 8j + 2c + e of channel r + 8h.
#pragma once

#include "device/element.cuh"
#include "device/math.cuh"
#include "device/mma.cuh"
#include "device/warp.cuh"
#include "scan/selective_scan/selective_scan.hpp"

namespace hax::selective_scan {

using device::load_any;
using device::store_any;

template <class T_, int Warps>
struct BackwardShape {
  using T = T_;
  static constexpr int kWarps = Warps;
  static constexpr int kThreads = Warps * device::kWarp;
  static constexpr int kTile = backward_tile(Warps);
  static constexpr int kMostChannels = Warps == kFewWarps ? 64 : 32;
  static constexpr int kMostStateTiles = Warps == kFewWarps ? 4 : 16;
  static constexpr int kElements = 4;  // of a thread

  // fp32 activations get decays less 1, accurate however long a state remembers.
  static constexpr bool kAccurate = type_of<T> == Type::fp32;
  __device__ static float decay(float x) {
    return kAccurate ? device::exp2m1(x) : device::exp2_approx(x);
  }
  __device__ static float decayed(float decay, float h) {
    return kAccurate ? fmaf(h, decay, h) : h * decay;
  }
  __device__ static float decayed(float decay, float h, float x) {
    return kAccurate ? h + fmaf(h, decay, x) : fmaf(h, decay, x);
  }
  __device__ static float step_size(float delta, bool apply_softplus) {
    if (!apply_softplus) return delta;
    return kAccurate ? device::softplus_accurate(delta) : device::softplus(delta);
  }
};

// Which tensors can be moved in vectors.
struct BackwardAccess {
  bool u, delta, z, dy, du, ddelta, dz, B, C;
};

// Channels that a block owns, all of one group.
struct ChannelBlock {
  int64_t index, group, first;
  int count;

  __device__ ChannelBlock(const Inputs& in, const CudaBackwardPlan& plan, int64_t index)
      : index(index), group(index / plan.per_group) {
    const int64_t members = in.channels / in.groups;
    const int64_t begin = index % plan.per_group * plan.width;
    first = group * members + begin;
    count = static_cast<int>(min(plan.width, members - begin));
  }
};

// Where a thread's lane stands.
struct LanePlace {
  const int lane = threadIdx.x % device::kWarp, warp = threadIdx.x / device::kWarp;
  const int r = lane / 4, c = lane % 4;
  const int state_tile, channel;  // the warp's states and the lane's first channel

  __device__ explicit LanePlace(const CudaBackwardPlan& plan)
      : state_tile(warp % plan.state_tiles), channel(warp / plan.state_tiles * kWarpChannels + r) {}

  // f(number, channel within the block, n)
  template <class F>
  __device__ void for_each(F&& f) const {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      f(k, channel + k / 2 % 2 * 8, state_tile * kWarpStates + k / 4 * 8 + 2 * c + k % 2);
    }
  }
};

// A lane's numbers among those that a plan's arrays keep, row after row.
template <class S>
__device__ int64_t numbers_place(const CudaBackwardPlan& plan, int64_t row, int64_t block,
                                 const LanePlace& place) {
  return row * plan.numbers + (block * S::kWarps + place.warp) * kWarpNumbers + place.lane * 8;
}
__device__ inline void load_numbers(float (&to)[8], const float* from) {
  const float4 low = *reinterpret_cast<const float4*>(from);
  const float4 high = *reinterpret_cast<const float4*>(from + 4);
  to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
  to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}
__device__ inline void store_numbers(float* to, const float (&from)[8]) {
  reinterpret_cast<float4*>(to)[0] = make_float4(from[0], from[1], from[2], from[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(from[4], from[5], from[6], from[7]);
}

// A lane's part of a (..., D, N) tensor from `offset` on; zeros where there is none.
__device__ inline void load_states(float (&to)[8], const Tensor& tensor, int64_t offset,
                                   const ChannelBlock& block, const LanePlace& place,
                                   int64_t states) {
  place.for_each([&](int k, int c, int n) {
    to[k] = tensor && c < block.count && n < states
                ? load_any(tensor, offset + (block.first + c) * tensor.stride[tensor.ndim - 2] +
                                       n * tensor.stride[tensor.ndim - 1])
                : 0.0f;
  });
}
__device__ inline void store_states(const float (&from)[8], const Tensor& tensor, int64_t offset,
                                    const ChannelBlock& block, const LanePlace& place,
                                    int64_t states) {
  place.for_each([&](int k, int c, int n) {
    if (c >= block.count || n >= states) return;
    store_any(tensor,
              offset + (block.first + c) * tensor.stride[tensor.ndim - 2] +
                  n * tensor.stride[tensor.ndim - 1],
              from[k]);
  });
}

// A thread's neighbouring channels of one of a tile's tokens.
template <class S>
struct ElementPlace {
  using T = typename S::T;
  static constexpr int kCount = S::kElements;
  const int token, channel;
  const bool active;

  __device__ explicit ElementPlace(const CudaBackwardPlan& plan)
      : token(threadIdx.x / (static_cast<int>(plan.width) / kCount)),
        channel(threadIdx.x % (static_cast<int>(plan.width) / kCount) * kCount),
        active(token < S::kTile) {}

  // Of a (B, L, D) tensor; zeros beyond `tokens` and the block's channels.
  __device__ void load(float (&to)[kCount], const Tensor& tensor, bool vectors, int64_t row,
                       int64_t first, int tokens, const ChannelBlock& block) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = 0.0f;
    if (token >= tokens) return;
    const T* const from = tensor.at<T>(row, first + token);
    if (vectors) {
      if (channel < block.count) {
        device::unpack(to, device::load_packed<T, kCount>(from + block.first + channel));
      }
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (channel + i < block.count) {
          to[i] = device::to_float(from[(block.first + channel + i) * tensor.stride[2]]);
        }
      }
    }
  }
  __device__ void store(const float (&from)[kCount], const Tensor& tensor, bool vectors,
                        int64_t row, int64_t first, int tokens, const ChannelBlock& block) const {
    if (token >= tokens) return;
    T* const to = tensor.at<T>(row, first + token);
    if (vectors) {
      if (channel < block.count) {
        device::store_packed<T, kCount>(to + block.first + channel, from);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (channel + i < block.count) {
          to[(block.first + channel + i) * tensor.stride[2]] = device::from_float<T>(from[i]);
        }
      }
    }
  }

  // Fetches the vector of a tile to come into the L2 cache.
  __device__ void prefetch(const Tensor& tensor, bool vectors, int64_t row, int64_t first,
                           const ChannelBlock& block) const {
    if (!vectors || channel >= block.count) return;
    const T* const from = tensor.at<T>(row, first + token) + block.first + channel;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
  }
};

// Place of a channel in a row of 16-byte pieces: permuted so that threads with four channels each meet as
// rarely in a bank as lanes with one.
__device__ inline int piece_place(int channel) { return channel ^ (channel / 8 & 3); }

inline constexpr int kRowStride = 24;  // of a tile's B and C: no bank conflicts by token or by state

// A tile's B and C of 16 states.
template <class S>
using StateRows = float[S::kTile][kRowStride];

// Brings a tile's B and C to shared memory, zeros beyond `tokens` and N.
template <class S>
__device__ void stage_rows(StateRows<S>* to, const Tensor& tensor, bool pairs,
                           const CudaBackwardPlan& plan, const Inputs& in, int64_t row,
                           int64_t first, int tokens, int64_t group) {
  using T = typename S::T;
  const int per_row = plan.state_tiles * (kWarpStates / 2);
  for (int i = threadIdx.x; i < S::kTile * per_row; i += S::kThreads) {
    const int t = i / per_row, n = i % per_row * 2;
    float2 values = make_float2(0.0f, 0.0f);
    if (t < tokens && n < in.states) {
      const T* const from = tensor.at<T>(row, first + t, group);
      if (pairs) {
        const auto pair = device::load_packed<T, 2>(from + n);
        values = make_float2(device::to_float(pair.values[0]), device::to_float(pair.values[1]));
      } else {
        values.x = device::to_float(from[n * tensor.stride[3]]);
        if (n + 1 < in.states) values.y = device::to_float(from[(n + 1) * tensor.stride[3]]);
      }
    }
    *reinterpret_cast<float2*>(&to[n / kWarpStates][t][n % kWarpStates]) = values;
  }
}

// What a block holds of a tile for its warps.
template <class S>
struct TileShared {
  float4 inputs[S::kTile][S::kMostChannels];  // dt, dt u, gradient of y before the gate, u
  StateRows<S> B[S::kMostStateTiles], C[S::kMostStateTiles];
  float bias[S::kMostChannels], skip[S::kMostChannels];  // delta_bias, D

  __device__ const float4& input(int t, int channel) const {
    return inputs[t][piece_place(channel)];
  }
};

template <class S>
__device__ void load_channels(TileShared<S>& shared, const Inputs& in, const ChannelBlock& block) {
  for (int c = threadIdx.x; c < S::kMostChannels; c += S::kThreads) {
    const bool used = c < block.count;
    shared.bias[c] = used && in.delta_bias ? *in.delta_bias.at<float>(block.first + c) : 0.0f;
    shared.skip[c] = used && in.D ? *in.D.at<float>(block.first + c) : 0.0f;
  }
}

// The lane's A log2(e); 0 beyond N.
__device__ inline void load_rates(float (&to)[8], const Inputs& in, const ChannelBlock& block,
                                  const LanePlace& place) {
  place.for_each([&](int k, int c, int n) {
    to[k] = c < block.count && n < in.states ? *in.A.at<float>(block.first + c, n) * device::kLog2E
                                             : 0.0f;
  });
}

// One tile: some tokens of a row.
struct Tile {
  int64_t row, first;
  int tokens;
};

// Fills shared.inputs. What gradients need beyond them: slopes(i, of dz by y, of delta by dt).
template <class S, class F>
__device__ void stage_elements(TileShared<S>& shared, const BackwardParams& p,
                               const BackwardAccess& access, const ElementPlace<S>& place,
                               const ChannelBlock& block, const Tile& tile, bool gradients,
                               F&& slopes) {
  constexpr int kCount = S::kElements;
  const auto load = [&](float(&to)[kCount], const Tensor& tensor, bool vectors) {
    place.load(to, tensor, vectors, tile.row, tile.first, tile.tokens, block);
  };
  float u[kCount], delta[kCount], z[kCount] = {}, dy[kCount] = {};
  load(u, p.u, access.u);
  load(delta, p.delta, access.delta);
  if (gradients) load(dy, p.dy, access.dy);
  if (gradients && p.z) load(z, p.z, access.z);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int c = place.channel + i;
    // Beyond the tile's tokens a step of 0 leaves states as they are.
    const float x = delta[i] + shared.bias[c];
    const float dt = place.token < tile.tokens && c < block.count ? S::step_size(x, p.softplus) : 0;
    float g = dy[i], slope = 0.0f;
    if (gradients && p.z) {
      const float s = device::sigmoid(z[i]);
      g = dy[i] * (z[i] * s);
      slope = dy[i] * (s * (1.0f + z[i] * (1.0f - s)));
    }
    slopes(i, slope, p.softplus ? device::sigmoid(x) : 1.0f);
    float dtu = dt * u[i];
    if constexpr (!S::kAccurate) {
      dtu = device::round_to_tf32(dtu);
      g = device::round_to_tf32(g);
    }
    shared.inputs[place.token][piece_place(c)] = make_float4(dt, dtu, g, u[i]);
  }
}

}  // namespace hax::selective_scan
