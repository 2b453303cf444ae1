// Tiles of the selective scan's backward: a few tokens of a block's channels. Threads first go over the
// tile's elements, four channels of a token each, then warps over its states, as fragments of tensor
// cores hold them: lane 4 r + c has channels r and r + 8 with states 2c, 2c + 1, 8 + 2c and 9 + 2c. Number
// 4e + 2j + m of a lane is state 8j + 2c + e of channel r + 8m, as operands have it. Results of products have
// number 4j + 2m + e there.
#pragma once

#include "device/async_copy.cuh"
#include "device/element.cuh"
#include "device/math.cuh"
#include "device/mma.cuh"
#include "device/warp.cuh"
#include "scan/selective_scan/selective_scan.hpp"

namespace hax::selective_scan {

using device::load_any;
using device::store_any;

// StateTiles: the plan's, or 0 for whatever it says. Vectors: every tensor's elements can be moved so.
template <class T_, int Warps, int StateTiles, bool Vectors>
struct BackwardShape {
  using T = T_;
  static constexpr bool kVectors = Vectors;
  static constexpr int kWarps = Warps;
  static constexpr int kThreads = Warps * device::kWarp;
  static constexpr int kTile = backward_tile(Warps);
  static constexpr int kRun = 4;  // tokens whose decays a lane keeps
  static constexpr int kRuns = kTile / kRun;
  static constexpr int kMostChannels = Warps == kFewWarps ? 64 : 32;
  static constexpr int kMostStateTiles = StateTiles > 0 ? StateTiles : Warps == kFewWarps ? 4 : 16;
  __device__ static int state_tiles(const CudaBackwardPlan& plan) {
    return StateTiles > 0 ? StateTiles : plan.state_tiles;
  }
  __device__ static int width(const CudaBackwardPlan& plan) {
    return StateTiles > 0 ? Warps / StateTiles * kWarpChannels : static_cast<int>(plan.width);
  }
  static constexpr int kElements = 4;  // of a thread

  // fp32 activations get decays less 1, accurate however long a state remembers.
  static constexpr bool kAccurate = type_of<T> == Type::fp32;
  __device__ static float decay(float x) {
    return kAccurate ? device::exp2m1(x) : device::exp2_approx(x);
  }
  // Products cut operands off to tf32, which takes 0.72 * 2^-11 of them on average: makes good for `times` cuts.
  __host__ __device__ static constexpr float uncut(int times) {
    return kAccurate ? 1.0f : 1.0f + times * 3.5e-4f;
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

// threadIdx.x, read anew: what depends on it is not kept in registers, which are short, from tile to tile.
__device__ inline int thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

// Where a thread's lane stands.
struct LanePlace {
  const int thread = thread_index();
  const int lane = thread % device::kWarp, warp = thread / device::kWarp;
  const int r = lane / 4, c = lane % 4;
  const int state_tile, channel;  // the warp's states and the lane's first channel

  // state_tiles: of the block.
  __device__ explicit LanePlace(int state_tiles)
      : state_tile(warp % state_tiles), channel(warp / state_tiles * kWarpChannels + r) {}

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
// Of numbers that another block of the same launch wrote.
__device__ inline void load_numbers_fresh(float (&to)[8], const float* from) {
#pragma unroll
  for (int i = 0; i < 8; i += 4) {
    const float4 four = __ldcg(reinterpret_cast<const float4*>(from + i));
    to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
  }
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
  const int thread, token, channel;
  const bool active;  // some of the channels are the block's

  __device__ ElementPlace(const CudaBackwardPlan& plan, const ChannelBlock& block)
      : ElementPlace(thread_index(), S::width(plan) / kCount, block) {}
  __device__ ElementPlace(int thread, int of_token, const ChannelBlock& block)
      : thread(thread),
        token(thread / of_token),
        channel(thread % of_token * kCount),
        active(token < S::kTile && channel < block.count) {}

  // The first of them in the tile that starts with token `first` of a (B, L, D) tensor.
  __device__ T* at(const Tensor& tensor, int64_t row, int64_t first,
                   const ChannelBlock& block) const {
    return tensor ? tensor.at<T>(row, first + token, block.first + channel) : nullptr;
  }

  __device__ void load(float (&to)[kCount], const T* from, const Tensor& tensor,
                       const ChannelBlock& block) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      to[i] = channel + i < block.count ? device::to_float(from[i * tensor.stride[2]]) : 0.0f;
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
  const int thread = thread_index();
  const int pair = thread % kPairs, token = thread / kPairs % S::kTile;
  const int which = thread / kPairs / S::kTile % 2;  // 0: B, 1: C
  const int state_tile = kStep > 1 ? thread / kPairs / S::kTile / 2 : 0;

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
  uint4 units[device::kWarp];                            // of each lane: a part of the unit matrix
  Work work;
  T* elements[kElementTensors][kStagers];
  const T* states[S::kThreads];
  // Each thread's vectors of the next tile, where there are vectors.
  static constexpr int kRowsOfThread =
      (S::kMostStateTiles + RowPlace<S>::kStep - 1) / RowPlace<S>::kStep;
  device::Packed<T, S::kElements> fetched[S::kVectors ? 4 : 1][kStagers];  // u, delta, dy, z
  device::Packed<T, 2> fetched_rows[S::kVectors ? kRowsOfThread : 1][S::kThreads];

  __device__ const float4& input(int t, int channel) const {
    return inputs[t][piece_place(channel)];
  }
};

// A thread's place in a tensor `tokens` tokens on.
template <class S, class T>
__device__ T* advanced(T* at, int64_t stride, int32_t step, int tokens) {
  if constexpr (S::kVectors) {
    T* to;
    asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(to) : "r"(tokens), "r"(step), "l"(at));
    return to;
  } else {
    return at + tokens * stride;
  }
}

// Readies a block for `work`.
template <class S>
__device__ void ready_tiles(TileShared<S>& shared, const BackwardParams& p,
                            const CudaBackwardPlan& plan, const Work& work) {
  using T = typename S::T;
  __syncthreads();  // the work before may still be under way
  if (threadIdx.x == 0) shared.work = work;
  if (threadIdx.x < device::kWarp) {
    const int r = threadIdx.x / 4, c = threadIdx.x % 4;
    shared.units[threadIdx.x] =
        make_uint4(__float_as_uint(r == 2 * c), 0, __float_as_uint(r == 2 * c + 1), 0);
  }
  const ChannelBlock& block = work.channels;
  const ElementPlace<S> place(plan, block);
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
      shared.elements[i][place.thread] =
          place.at(element_tensor(p, i), work.row, work.begin, block);
    }
  }
  const RowPlace<S> states;
  const Tensor& tensor = states.which ? p.C : p.B;
  shared.states[states.thread] = tensor.at<T>(work.row, work.begin + states.token, block.group) +
                                 states.state() * tensor.stride[3];
  __syncthreads();
}

// A tile: some tokens from token `first` of the segment on.
struct Tile {
  int first, tokens;
};

// Calls f(the thread's place, index of its vector, its first state, its place in memory) for a thread's part of a tile's B
// and, where wanted, C; nothing beyond its tokens and N.
template <class S, class F>
__device__ void for_each_row(const TileShared<S>& shared, const BackwardParams& p,
                             const BackwardSteps& steps, const CudaBackwardPlan& plan,
                             const Tile& tile, bool both, F&& f) {
  using T = typename S::T;
  const RowPlace<S> place;
  if (place.token >= tile.tokens || (place.which && !both)) return;
  const Tensor& tensor = place.which ? p.C : p.B;
  const T* from = advanced<S>(shared.states[place.thread], tensor.stride[1],
                              steps.rows[place.which], tile.first);
  const int states = static_cast<int>(p.states);
  int i = 0, n = place.state();
#pragma unroll 1
  for (int j = place.state_tile; j < S::state_tiles(plan) && n < states; j += RowPlace<S>::kStep) {
    f(place, i, n, from);
    ++i;
    n += RowPlace<S>::kStep * kWarpStates;
    from += RowPlace<S>::kStep * kWarpStates * (S::kVectors ? 1 : tensor.stride[3]);
  }
}

// Begins to bring a tile's vectors to shared memory; `gradients`: dy, z and C too. The caller closes the group.
template <class S>
__device__ void fetch_tile(TileShared<S>& shared, const BackwardParams& p,
                           const BackwardSteps& steps, const CudaBackwardPlan& plan,
                           const ChannelBlock& block, const Tile& tile, bool gradients) {
  if constexpr (S::kVectors) {
    using T = typename S::T;
    const ElementPlace<S> place(plan, block);
    const auto fetch = [&](int which) {
      device::copy_async<sizeof(T) * S::kElements>(
          &shared.fetched[which][place.thread],
          advanced<S>(shared.elements[which][place.thread], 0, steps.elements[which], tile.first));
    };
    if (place.active && place.token < tile.tokens) {
      fetch(kU);
      fetch(kDelta);
      if (gradients) fetch(kDy);
      if (gradients && p.z) fetch(kZ);
    }
    for_each_row(shared, p, steps, plan, tile, gradients,
                 [&](const RowPlace<S>& row, int i, int, const T* from) {
                   device::copy_async<2 * sizeof(T)>(&shared.fetched_rows[i][row.thread], from);
                 });
  }
}

// A tile's B and, where wanted, C, zeros beyond its tokens and N. In vectors: as fetched.
template <class S>
__device__ void stage_rows(TileShared<S>& shared, const BackwardParams& p,
                           const BackwardSteps& steps, const CudaBackwardPlan& plan,
                           const Tile& tile, bool both) {
  using T = typename S::T;
  const RowPlace<S> place;
  const auto store = [&](int n, float2 values) {
    float* const to =
        &shared
             .rows[place.which][n / kWarpStates][place.token][place.pair % 4 * 4 + place.pair / 4];
    to[0] = values.x;
    to[2] = values.y;
  };
  for (int j = place.state_tile; j < S::state_tiles(plan); j += RowPlace<S>::kStep) {
    const int n = j * kWarpStates;
    if (place.token >= tile.tokens || n + 2 * place.pair >= static_cast<int>(p.states)) {
      store(n, make_float2(0.0f, 0.0f));
    }
  }
  const int states = static_cast<int>(p.states);
  for_each_row(
      shared, p, steps, plan, tile, both, [&](const RowPlace<S>&, int i, int n, const T* from) {
        float2 values = make_float2(0.0f, 0.0f);
        if constexpr (S::kVectors) {
          const auto pair = shared.fetched_rows[i][place.thread];
          values = make_float2(device::to_float(pair.values[0]), device::to_float(pair.values[1]));
        } else {
          values.x = device::to_float(from[0]);
          if (n + 1 < states) {
            values.y = device::to_float(from[(place.which ? p.C : p.B).stride[3]]);
          }
        }
        store(n, values);
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

// Fills shared.inputs; in vectors: with what was fetched. What gradients need beyond them: slopes(thread, i, of dz by y, of delta by dt).
template <class S, class F>
__device__ void stage_elements(TileShared<S>& shared, const BackwardParams& p,
                               const CudaBackwardPlan& plan, const ChannelBlock& block,
                               const Tile& tile, bool gradients, F&& slopes) {
  const ElementPlace<S> place(plan, block);
  if (!place.active) return;
  constexpr int kCount = S::kElements;
  const bool used = place.token < tile.tokens;
  const auto load = [&](float(&to)[kCount], int which) {
    if constexpr (S::kVectors) {
      device::unpack(to, shared.fetched[which][place.thread]);
    } else {
      const Tensor& tensor = element_tensor(p, which);
      place.load(to,
                 advanced<S>(shared.elements[which][place.thread], tensor.stride[1], 0, tile.first),
                 tensor, block);
    }
  };
  float u[kCount] = {}, delta[kCount] = {}, z[kCount] = {}, dy[kCount] = {};
  if (used) {
    load(u, kU);
    load(delta, kDelta);
    if (gradients) load(dy, kDy);
    if (gradients && p.z) load(z, kZ);
  }
  typename S::Step steps_dt[kCount];
  float g[kCount], of_y[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    steps_dt[i] = {delta[i] + shared.bias[place.channel + i], 1.0f};
    g[i] = dy[i];
    of_y[i] = 0.0f;
  }
  if (p.softplus) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) steps_dt[i] = S::softplus(steps_dt[i].dt);
  }
  if (gradients && p.z) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float s = device::sigmoid(z[i]);
      g[i] = dy[i] * (z[i] * s);
      of_y[i] = dy[i] * (s * (1.0f + z[i] * (1.0f - s)));
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    // Beyond the tile's tokens a step of 0 leaves states as they are.
    const float dt = used ? steps_dt[i].dt : 0.0f;
    slopes(place.thread, i, of_y[i], steps_dt[i].slope);
    shared.inputs[place.token][piece_place(place.channel + i)] =
        make_float4(dt, dt * u[i], g[i], u[i]);
  }
}

}  // namespace hax::selective_scan
