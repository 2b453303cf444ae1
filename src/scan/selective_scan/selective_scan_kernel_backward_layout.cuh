// How the selective scan's backward lays its numbers over a block. A warp holds 16 channels by 16 states as the
// results of tensor cores do: lane 4r + c has channels 2r and 2r + 1 with states 4c to 4c + 3; its number
// 4j + 2m + e is state 4c + 2e + j of channel 2r + m.
#pragma once

#include "device/element.cuh"
#include "device/math.cuh"
#include "device/mma.cuh"
#include "device/warp.cuh"
#include "scan/selective_scan/selective_scan.hpp"

namespace hax::selective_scan {

using device::load_any;
using device::store_any;

inline constexpr int kPackedTile = backward_tile(kFewWarps);

// Alone: N is at most 16, so that warps share no channels and a block has 64; otherwise the plan says how many warps
// share theirs. Vectors: every tensor's elements can be moved so.
template <class T_, int Warps, bool Alone, bool Vectors>
struct BackwardShape {
  using T = T_;
  static constexpr bool kAlone = Alone, kVectors = Vectors;
  // Whether lanes stage the elements whose sums tensor cores give them: selective_scan_kernel_backward_packed.cuh.
  static constexpr bool kPacked = Alone && type_of<T> == Type::bf16;
  static constexpr int kBlocksAtOnce = kPacked              ? 4
                                       : Warps == kFewWarps ? 3
                                                            : 1;  // on a multiprocessor
  // Tokens of a tile whose decays are computed twice, so that registers last for four blocks.
  static constexpr int kDecaysAgain = kPacked ? 2 : 0;
  static constexpr int kPrefetchAt = 3;  // the token where the next tile's elements are asked for
  static constexpr int kWarps = Warps;
  static constexpr int kThreads = Warps * device::kWarp;
  static constexpr int kTile = backward_tile(Warps);
  static constexpr int kMostChannels = Warps == kFewWarps ? 64 : 32;
  static constexpr int kMostStateTiles = Alone ? 1 : Warps == kFewWarps ? 4 : 16;
  static constexpr int kElements = 4;  // of a thread
  static constexpr int kStagers = kTile * kMostChannels / kElements;
  static_assert(!Alone || kStagers == kThreads);
  // Elements of a tile in shared memory: with Alone warp after warp. Rows are padded for lanes that read or write
  // four tokens at once.
  static constexpr int kPaddedRow = kPacked ? 20 : Alone ? kWarpChannels : kMostChannels + 8;
  static constexpr int kPlaces = kTile * kPaddedRow * (Alone ? Warps : 1);
  __device__ static int place_of(int token, int channel) {
    return Alone ? (channel / kWarpChannels * kTile + token) * kPaddedRow + channel % kWarpChannels
                 : token * kPaddedRow + channel;
  }
  __device__ static int state_tiles(const CudaBackwardPlan& plan) {
    return Alone ? 1 : plan.state_tiles;
  }
  __device__ static int width(const CudaBackwardPlan& plan) {
    return Alone ? kMostChannels : static_cast<int>(plan.width);
  }
  // Between threads that stage the same channels.
  __device__ static void sync() {
    if (Alone) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

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
  struct Step {
    float dt, slope;  // slope: of dt by delta
  };
  __device__ static Step softplus(float delta) {
    if (kAccurate) return {device::softplus_accurate(delta), device::sigmoid(delta)};
    const float e = device::exp2_approx(-fabsf(delta) * device::kLog2E);
    const float inverse = device::reciprocal_approx(1.0f + e);
    // log1p(e): by its series where 1 + e would lose e.
    const float log1p = e < 0x1p-8f ? fmaf(-0.5f * e, e, e) : __logf(1.0f + e);
    return {fmaxf(delta, 0.0f) + log1p, delta < 0.0f ? e * inverse : inverse};
  }
};

// Channels that a block owns, all of one group.
struct ChannelBlock {
  int64_t index, group, first;
  int count;
};
__device__ inline ChannelBlock channel_block(const Inputs& in, const CudaBackwardPlan& plan,
                                             int64_t index) {
  const int64_t group = index / plan.per_group, members = in.channels / in.groups;
  const int64_t begin = index % plan.per_group * plan.width;
  return {index, group, group * members + begin,
          static_cast<int>(min(plan.width, members - begin))};
}

// What a block works on. In shared memory: it is needed between tiles only, and registers are short.
struct Work {
  ChannelBlock channels;
  int64_t row, part, begin;  // part: segment or walk of the row, from token `begin` on
};

// A tile: some tokens from token `first` of the segment on.
struct Tile {
  int first, tokens;
};

// threadIdx.x, read anew: what depends on it is not kept in registers, which are short, from tile to tile.
__device__ inline unsigned thread_index() {
  unsigned index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

// Where a thread's lane stands.
struct LanePlace {
  const unsigned thread = thread_index();
  const int lane = thread % device::kWarp, warp = thread / device::kWarp;
  const int r = thread % device::kWarp / 4, c = thread % 4;
  const int state_tile, channel;  // the warp's states and the lane's first channel

  // state_tiles: of the block.
  __device__ explicit LanePlace(int state_tiles)
      : state_tile(warp % state_tiles), channel(warp / state_tiles * kWarpChannels + 2 * r) {}

  // f(number, channel within the block, n)
  template <class F>
  __device__ void for_each(F&& f) const {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      f(k, channel + k / 2 % 2, state_tile * kWarpStates + 4 * c + k % 2 * 2 + k / 4);
    }
  }
};

// A lane's numbers where row `row` of a plan's array has them: four, and 4 * kWarp on the other four.
template <class S>
__device__ int64_t numbers_place(const CudaBackwardPlan& plan, int64_t row, int64_t block,
                                 const LanePlace& place) {
  return row * plan.numbers + (block * S::kWarps + place.warp) * kWarpNumbers + place.lane * 4;
}
inline constexpr int kOtherNumbers = 4 * device::kWarp;

__device__ inline void unpack_numbers(float (&to)[8], const float4& low, const float4& high) {
  to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
  to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}
__device__ inline void load_numbers(float (&to)[8], const float* from) {
  unpack_numbers(to, *reinterpret_cast<const float4*>(from),
                 *reinterpret_cast<const float4*>(from + kOtherNumbers));
}
// Of numbers that another block of the same launch wrote.
__device__ inline void load_numbers_fresh(float (&to)[8], const float* from) {
  unpack_numbers(to, __ldcg(reinterpret_cast<const float4*>(from)),
                 __ldcg(reinterpret_cast<const float4*>(from + kOtherNumbers)));
}
__device__ inline void store_numbers(float* to, const float (&from)[8]) {
  *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
  *reinterpret_cast<float4*>(to + kOtherNumbers) = make_float4(from[4], from[5], from[6], from[7]);
}

// States where tiles start: fp32, or packs of bf16 for 16-bit activations.
template <class S>
using StartNumber = std::conditional_t<S::kAccurate, float, bf16>;
template <class S>
inline constexpr int kStartVectors = S::kAccurate ? 2 : 1;  // of 16 bytes, kWarp vectors apart

// Those of a lane in slot `slot` of plan.states.
template <class S>
__device__ StartNumber<S>* starts_at(const CudaBackwardPlan& plan, int64_t slot, int64_t block,
                                     const LanePlace& place) {
  return static_cast<StartNumber<S>*>(plan.states) + slot * plan.numbers +
         (block * S::kWarps + place.warp) * kWarpNumbers +
         place.lane * (kWarpNumbers / device::kWarp / kStartVectors<S>);
}
template <class S>
__device__ void store_start(StartNumber<S>* to, const float (&h)[8]) {
  if constexpr (S::kAccurate) {
    store_numbers(to, h);
  } else {
    *reinterpret_cast<uint4*>(to) =
        make_uint4(device::pack_pair<bf16>(h[0], h[1]), device::pack_pair<bf16>(h[2], h[3]),
                   device::pack_pair<bf16>(h[4], h[5]), device::pack_pair<bf16>(h[6], h[7]));
  }
}
// `distance`: elements from a lane's first vector to its second.
template <class S>
__device__ void load_start(float (&h)[8], const StartNumber<S>* from, int distance) {
  if constexpr (S::kAccurate) {
    unpack_numbers(h, *reinterpret_cast<const float4*>(from),
                   *reinterpret_cast<const float4*>(from + distance));
  } else {
    const uint4 words = *reinterpret_cast<const uint4*>(from);
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = device::unpack_pair<bf16>(pairs[i]);
      h[2 * i] = pair.x;
      h[2 * i + 1] = pair.y;
    }
  }
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

// The lane's A log2(e); 0 beyond N.
__device__ inline void load_rates(float (&to)[8], const Inputs& in, const ChannelBlock& block,
                                  const LanePlace& place) {
  place.for_each([&](int k, int c, int n) {
    to[k] = c < block.count && n < in.states ? *in.A.at<float>(block.first + c, n) * device::kLog2E
                                             : 0.0f;
  });
}

__device__ inline void load_four(float (&to)[4], const void* from) {
  const float4 four = *static_cast<const float4*>(from);
  to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}
__device__ inline void store_four(void* to, const float (&from)[4]) {
  *static_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
}

}  // namespace hax::selective_scan
