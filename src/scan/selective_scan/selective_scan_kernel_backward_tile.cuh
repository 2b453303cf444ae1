// Tiles of the selective scan's backward: a few tokens of a block's channels. Threads first go over the
// tile's elements, four channels of a token each, then warps over its states, as fragments of tensor
// cores hold them: lane 4 r + c has channels r and r + 8 with states 2c, 2c + 1, 8 + 2c and 9 + 2c. Number
// 4e + 2j + m of a lane is state 8j + 2c + e of channel r + 8m, as operands have it. Results of products have
// number 4j + 2m + e there.
#pragma once

#include "device/element.cuh"
#include "device/math.cuh"
#include "device/mma.cuh"
#include "device/warp.cuh"
#include "scan/selective_scan/selective_scan.hpp"

namespace hax::selective_scan {

using device::load_any;
using device::store_any;

template <class T_, int Warps, bool Vectors>
struct BackwardShape {
  using T = T_;
  static constexpr bool kVectors = Vectors;  // every tensor's elements can be moved so
  static constexpr int kWarps = Warps;
  static constexpr int kThreads = Warps * device::kWarp;
  static constexpr int kTile = backward_tile(Warps);
  static constexpr int kRun = 4;  // tokens whose decays a lane keeps
  static constexpr int kRuns = kTile / kRun;
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

// The tensors whose elements threads move, and the bytes from a token to the next; for kVectors.
enum ElementTensor { kU, kDelta, kDy, kZ, kDu, kDdelta, kDz, kElementTensors };
struct BackwardSteps {
  int32_t elements[kElementTensors];
  int32_t rows[2];  // B, C
  int32_t shares;
};

__device__ inline const Tensor& element_tensor(const BackwardParams& p, int which) {
  switch (which) {
    case kU: return p.u;
    case kDelta: return p.delta;
    case kDy: return p.dy;
    case kZ: return p.z;
    case kDu: return p.du;
    case kDdelta: return p.ddelta;
    default: return p.dz;
  }
}

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
      f(k, channel + k % 2 * 8, state_tile * kWarpStates + k / 2 % 2 * 8 + 2 * c + k / 4);
    }
  }
};

// Place in results of products of number k.
__host__ __device__ constexpr int result_place(int k) { return k / 2 % 2 * 4 + k % 2 * 2 + k / 4; }
__device__ inline void to_results(float (&to)[8], const float (&from)[8]) {
#pragma unroll
  for (int k = 0; k < 8; ++k) to[result_place(k)] = from[k];
}
__device__ inline void from_results(float (&to)[8], const float (&from)[8]) {
#pragma unroll
  for (int k = 0; k < 8; ++k) to[k] = from[result_place(k)];
}

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
  const bool active;  // some of the channels are the block's

  __device__ ElementPlace(const CudaBackwardPlan& plan, const ChannelBlock& block)
      : token(threadIdx.x / (static_cast<int>(plan.width) / kCount)),
        channel(threadIdx.x % (static_cast<int>(plan.width) / kCount) * kCount),
        active(token < S::kTile && channel < block.count) {}

  // The first of them in the tile that starts with token `first` of a (B, L, D) tensor.
  __device__ T* at(const Tensor& tensor, int64_t row, int64_t first,
                   const ChannelBlock& block) const {
    return tensor ? tensor.at<T>(row, first + token, block.first + channel) : nullptr;
  }

  __device__ void load(float (&to)[kCount], const T* from, const Tensor& tensor,
                       const ChannelBlock& block) const {
    if constexpr (S::kVectors) {
      device::unpack(to, device::load_packed<T, kCount>(from));
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        to[i] = channel + i < block.count ? device::to_float(from[i * tensor.stride[2]]) : 0.0f;
      }
    }
  }
  __device__ void store(const float (&from)[kCount], T* to, const Tensor& tensor,
                        const ChannelBlock& block) const {
    if constexpr (S::kVectors) {
      device::store_packed<T, kCount>(to, from);
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (channel + i < block.count) to[i * tensor.stride[2]] = device::from_float<T>(from[i]);
      }
    }
  }
};

// A thread's neighbouring states of one of a tile's tokens, in B or C; the same of every kStep-th 16 states.
template <class S>
struct RowPlace {
  static constexpr int kPairs = kWarpStates / 2;
  static constexpr int kStep = S::kThreads / (2 * S::kTile * kPairs);
  static_assert(kStep > 0 && kStep <= S::kMostStateTiles);
  const int pair = threadIdx.x % kPairs, token = threadIdx.x / kPairs % S::kTile;
  const int which = threadIdx.x / kPairs / S::kTile % 2;  // 0: B, 1: C
  const int state_tile = threadIdx.x / kPairs / S::kTile / 2;

  __device__ int state() const { return state_tile * kWarpStates + 2 * pair; }
};

// Place of a channel in a row of 16-byte pieces: permuted so that threads with four channels each meet as
// rarely in a bank as lanes with one.
__device__ inline int piece_place(int channel) { return channel ^ (channel / 8 & 3); }

// A token's B or C of 16 states: state 8j + 2c + e at 4c + 2e + j. No bank conflicts by token or by state.
using StateRow = float[24];

// What a block holds of a tile for its warps, and of a segment for each thread: where its elements lie, for
// registers are short.
template <class S>
struct TileShared {
  using T = typename S::T;
  static constexpr int kStagers = S::kTile * S::kMostChannels / S::kElements;
  float4 inputs[S::kTile][S::kMostChannels];       // dt, dt u, gradient of y before the gate, u
  StateRow rows[2][S::kMostStateTiles][S::kTile];  // B, C
  float bias[S::kMostChannels], skip[S::kMostChannels];  // delta_bias, D
  T* elements[kElementTensors][kStagers];
  const T* states[S::kThreads];

  __device__ const float4& input(int t, int channel) const {
    return inputs[t][piece_place(channel)];
  }
};

// A thread's place in a tensor `tokens` tokens on.
template <class S, class T>
__device__ T* advanced(T* at, int64_t stride, int32_t step, int tokens) {
  if constexpr (S::kVectors) {
    return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(at) + int64_t{tokens} * step);
  } else {
    return at + tokens * stride;
  }
}

// Readies a block for `block`'s channels, from token `begin` of a row on.
template <class S>
__device__ void ready_tiles(TileShared<S>& shared, const BackwardParams& p,
                            const ElementPlace<S>& place, const ChannelBlock& block, int64_t row,
                            int64_t begin) {
  using T = typename S::T;
  __syncthreads();  // the channels before may still be in use
  for (int c = threadIdx.x; c < S::kMostChannels; c += S::kThreads) {
    const bool used = c < block.count;
    shared.bias[c] = used && p.delta_bias ? *p.delta_bias.at<float>(block.first + c) : 0.0f;
    shared.skip[c] = used && p.D ? *p.D.at<float>(block.first + c) : 0.0f;
    for (int t = 0; t < S::kTile; ++t) {
      shared.inputs[t][piece_place(c)] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
  }
  if (place.active) {
#pragma unroll
    for (int i = 0; i < kElementTensors; ++i) {
      shared.elements[i][threadIdx.x] = place.at(element_tensor(p, i), row, begin, block);
    }
  }
  const RowPlace<S> states;
  const Tensor& tensor = states.which ? p.C : p.B;
  shared.states[threadIdx.x] =
      tensor.at<T>(row, begin + states.token, block.group) + states.state() * tensor.stride[3];
  __syncthreads();
}

// A tile: some tokens from token `first` of the segment on.
struct Tile {
  int first, tokens;
};

// Brings a tile's B and, where wanted, C to shared memory, zeros beyond its tokens and N.
template <class S>
__device__ void stage_rows(TileShared<S>& shared, const BackwardParams& p,
                           const BackwardSteps& steps, const CudaBackwardPlan& plan,
                           const Tile& tile, bool both) {
  using T = typename S::T;
  const RowPlace<S> place;
  if (place.which && !both) return;
  const Tensor& tensor = place.which ? p.C : p.B;
  const T* from =
      advanced<S>(shared.states[threadIdx.x], tensor.stride[1], steps.rows[place.which], tile.first);
  const int states = static_cast<int>(p.states);
  int n = place.state();
  for (int i = place.state_tile; i < plan.state_tiles; i += RowPlace<S>::kStep) {
    float2 values = make_float2(0.0f, 0.0f);
    if (place.token < tile.tokens && n < states) {
      if constexpr (S::kVectors) {
        const auto pair = device::load_packed<T, 2>(from);
        values = make_float2(device::to_float(pair.values[0]), device::to_float(pair.values[1]));
      } else {
        values.x = device::to_float(from[0]);
        if (n + 1 < states) values.y = device::to_float(from[tensor.stride[3]]);
      }
    }
    float* const to =
        &shared.rows[place.which][i][place.token][place.pair % 4 * 4 + place.pair / 4];
    to[0] = values.x;
    to[2] = values.y;
    n += RowPlace<S>::kStep * kWarpStates;
    from += RowPlace<S>::kStep * kWarpStates * (S::kVectors ? 1 : tensor.stride[3]);
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

// Fills shared.inputs. What gradients need beyond them: slopes(i, of dz by y, of delta by dt).
template <class S, class F>
__device__ void stage_elements(TileShared<S>& shared, const BackwardParams& p,
                               const BackwardSteps& steps, const ElementPlace<S>& place,
                               const ChannelBlock& block, const Tile& tile, bool gradients,
                               F&& slopes) {
  constexpr int kCount = S::kElements;
  const bool used = place.token < tile.tokens;
  const auto load = [&](float(&to)[kCount], int which) {
    const Tensor& tensor = element_tensor(p, which);
    place.load(to,
               advanced<S>(shared.elements[which][threadIdx.x], tensor.stride[1],
                           steps.elements[which], tile.first),
               tensor, block);
  };
  float u[kCount] = {}, delta[kCount] = {}, z[kCount] = {}, dy[kCount] = {};
  if (used) {
    load(u, kU);
    load(delta, kDelta);
    if (gradients) load(dy, kDy);
    if (gradients && p.z) load(z, kZ);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int c = place.channel + i;
    // Beyond the tile's tokens a step of 0 leaves states as they are.
    const float x = delta[i] + shared.bias[c];
    const float dt = used ? S::step_size(x, p.softplus) : 0.0f;
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
