// A tile of the selective scan's backward in shared memory: what its warps read of a few tokens of a block's
// channels, and how that comes there. Threads go over the tile's elements, four channels of a token each.
#pragma once

#include "device/mma.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_layout.cuh"

namespace hax::selective_scan {

// The tensors that a block goes through token by token: seven of elements, then B and C.
enum TileTensor { kU, kDelta, kDy, kZ, kDu, kDdelta, kDz, kB, kC, kTileTensors };

__device__ inline const Tensor& tile_tensor(const BackwardParams& p, int which) {
  switch (which) {
    case kU: return p.u;
    case kDelta: return p.delta;
    case kDy: return p.dy;
    case kZ: return p.z;
    case kDu: return p.du;
    case kDdelta: return p.ddelta;
    case kDz: return p.dz;
    case kB: return p.B;
    default: return p.C;
  }
}

// A thread's neighbouring channels of one of a tile's tokens; with S::kAlone of its warp's channels.
template <class S>
struct ElementPlace {
  const unsigned thread = thread_index();
  const int token, channel;
  const bool active;  // some of the channels are the block's

  // channels: of the block.
  __device__ ElementPlace(const CudaBackwardPlan& plan, int channels)
      : ElementPlace((S::kAlone ? kWarpChannels : S::width(plan)) / S::kElements,
                     static_cast<unsigned>(channels)) {}

 private:
  __device__ ElementPlace(unsigned of_token, unsigned channels)
      : token((S::kAlone ? thread % device::kWarp : thread) / of_token),
        channel(thread % of_token * S::kElements +
                (S::kAlone ? thread / device::kWarp * kWarpChannels : 0)),
        active((S::kAlone || token < S::kTile) && channel < static_cast<int>(channels)) {}
};

// A tile's B and C, of each 16 states.
template <class S>
using TileRows = typename S::T[2][S::kMostStateTiles][S::kTile][kWarpStates];

template <class S>
struct TileShared {
  using T = typename S::T;
  alignas(16) float dt[S::kPlaces];
  // dt u, and the gradient of y before the gate: in fp32, or as two of bf16, the second of what the first
  // leaves.
  alignas(16) uint32_t scales[2][S::kPacked ? 1 : S::kPlaces];
  alignas(16) float bias[S::kMostChannels];
  alignas(16) float skip[S::kMostChannels];  // delta_bias, D
  Work work;
  // Where a tensor has the block's first channel or state of the segment's first token, and its bytes from
  // a token to the next.
  struct alignas(16) Stream {
    T* first;
    int64_t step;

    // `token` tokens on.
    __device__ T* at(int token) const {
      if constexpr (S::kVectors) {
        T* to;
        asm("mad.wide.s32 %0, %1, %2, %3;"
            : "=l"(to)
            : "r"(token), "r"(static_cast<int>(step)), "l"(first));
        return to;
      } else {
        return reinterpret_cast<T*>(reinterpret_cast<char*>(first) + token * step);
      }
    }
  } streams[kTileTensors];
  alignas(16) T fetched[4][S::kVectors && !S::kPacked ? S::kPlaces : 1];  // u, delta, dy, z
};

// Where a thread's elements of a tile lie.
template <class S>
__device__ typename S::T* element_at(const typename TileShared<S>::Stream& stream,
                                     const Tensor& tensor, const Tile& tile,
                                     const ElementPlace<S>& place) {
  return stream.at(tile.first + place.token) + place.channel * (S::kVectors ? 1 : tensor.stride[2]);
}

template <class S>
__device__ void load_elements(float (&to)[S::kElements], const typename S::T* from,
                              const Tensor& tensor, int channels) {
#pragma unroll
  for (int i = 0; i < S::kElements; ++i) {
    to[i] = i < channels ? device::to_float(from[i * tensor.stride[2]]) : 0.0f;
  }
}
template <class S>
__device__ void store_elements(const float (&from)[S::kElements], typename S::T* to,
                               const Tensor& tensor, int channels) {
  using T = typename S::T;
  if constexpr (S::kVectors) {
    device::store_packed<T, S::kElements>(to, from);
  } else {
#pragma unroll
    for (int i = 0; i < S::kElements; ++i) {
      if (i < channels) to[i * tensor.stride[2]] = device::from_float<T>(from[i]);
    }
  }
}

// Readies a block for `work`.
template <class S>
__device__ void ready_tiles(TileShared<S>& shared, const BackwardParams& p, const Work& work) {
  using T = typename S::T;
  __syncthreads();  // the work before may still be under way
  const ChannelBlock& block = work.channels;
  const int thread = static_cast<int>(thread_index());
  if (thread == 0) shared.work = work;
  if (thread < kTileTensors) {
    const Tensor& tensor = tile_tensor(p, thread);
    const int64_t index = thread < kB ? block.first : block.group;
    shared.streams[thread].first = tensor ? tensor.at<T>(work.row, work.begin, index) : nullptr;
    shared.streams[thread].step = tensor ? tensor.stride[1] * int64_t{sizeof(T)} : 0;
  }
  for (int c = thread; c < S::kMostChannels; c += S::kThreads) {
    const bool used = c < block.count;
    shared.bias[c] = used && p.delta_bias ? *p.delta_bias.at<float>(block.first + c) : 0.0f;
    shared.skip[c] = used && p.D ? *p.D.at<float>(block.first + c) : 0.0f;
    for (int t = 0; t < S::kTile && !S::kPacked; ++t) {
      shared.dt[S::place_of(t, c)] = 0.0f;
      shared.scales[0][S::place_of(t, c)] = shared.scales[1][S::place_of(t, c)] = 0;
    }
  }
  __syncthreads();
}

// Rows hold zeros beyond N. By all the block's threads, before a barrier.
template <class S, int Count>
__device__ void clear_rows(TileRows<S> (&rows)[Count]) {
  auto* const words = reinterpret_cast<uint32_t*>(rows);
  for (unsigned i = thread_index(); i < sizeof(rows) / 4; i += S::kThreads) words[i] = 0;
}

// An fp32 number as TileShared::scales keep it.
template <class S>
__device__ uint32_t scale_bits(float value) {
  if constexpr (S::kAccurate) {
    return __float_as_uint(value);
  } else {
    const float high = __uint_as_float(__float_as_uint(value) & 0xffff0000u);
    return device::pack_pair<bf16>(high, value - high);
  }
}
template <class S>
__device__ void store_scales(TileShared<S>& shared, int which, const ElementPlace<S>& place,
                             const float (&values)[4]) {
  *reinterpret_cast<uint4*>(&shared.scales[which][S::place_of(place.token, place.channel)]) =
      make_uint4(scale_bits<S>(values[0]), scale_bits<S>(values[1]), scale_bits<S>(values[2]),
                 scale_bits<S>(values[3]));
}

// What a thread knows of its elements beyond what the tile keeps.
struct Elements {
  float u[4], dtu[4], g[4];  // g: gradient of y before the gate
  float of_y[4], of_dt[4];   // slopes: of dz by y, of delta by dt
};

template <class T>
__device__ void load_fetched(float (&to)[4], const T* from) {
  if constexpr (type_of<T> == Type::fp32) {
    load_four(to, from);
  } else {
    const uint2 words = *reinterpret_cast<const uint2*>(from);
    const float2 low = device::unpack_pair<T>(words.x), high = device::unpack_pair<T>(words.y);
    to[0] = low.x, to[1] = low.y, to[2] = high.x, to[3] = high.y;
  }
}

// Fills in a thread's elements and dt from what was read; used(i): whether element i is within the tile.
template <class S, class Used>
__device__ void make_elements(Elements& e, float (&dt)[4], const float (&dy)[4],
                              const float (&z)[4], const float (&bias)[4], const BackwardParams& p,
                              bool gradients, Used&& used) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    dt[i] += bias[i];
    e.of_dt[i] = 1.0f;
    e.g[i] = dy[i];
  }
  if (p.softplus) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const typename S::Step step = S::softplus(dt[i]);
      dt[i] = step.dt;
      e.of_dt[i] = step.slope;
    }
  }
  if (gradients && p.z) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float s = device::sigmoid(z[i]), gate = z[i] * s;
      e.g[i] = dy[i] * gate;
      e.of_y[i] = dy[i] * fmaf(gate, 1.0f - s, s);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // Beyond the tile's tokens a step of 0 leaves states as they are.
    dt[i] = used(i) ? dt[i] : 0.0f;
    e.dtu[i] = dt[i] * e.u[i];
  }
}

// Fills shared.dt and shared.scales; in vectors: with what was fetched. Then f(the thread's place, elements).
template <class S, class F>
__device__ void stage_elements(TileShared<S>& shared, const BackwardParams& p,
                               const CudaBackwardPlan& plan, const Tile& tile, int channels,
                               bool gradients, F&& f) {
  const ElementPlace<S> place(plan, channels);
  if (!place.active) return;
  const bool used = place.token < tile.tokens;
  const auto load = [&](float(&to)[4], int which) {
    if constexpr (S::kVectors) {
      load_fetched(to, &shared.fetched[which][S::place_of(place.token, place.channel)]);
    } else {
      const Tensor& tensor = tile_tensor(p, which);
      load_elements<S>(to, element_at<S>(shared.streams[which], tensor, tile, place), tensor,
                       channels - place.channel);
    }
  };
  Elements e = {};
  float dt[4] = {}, z[4] = {}, dy[4] = {}, bias[4];
  if (used) {
    load(e.u, kU);
    load(dt, kDelta);
    if (gradients) load(dy, kDy);
    if (gradients && p.z) load(z, kZ);
  }
  load_four(bias, &shared.bias[place.channel]);
  make_elements<S>(e, dt, dy, z, bias, p, gradients, [&](int) { return used; });
  store_four(&shared.dt[S::place_of(place.token, place.channel)], dt);
  store_scales(shared, 0, place, e.dtu);
  if (gradients) store_scales(shared, 1, place, e.g);
  f(place, e);
}

}  // namespace hax::selective_scan
