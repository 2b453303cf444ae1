// What the selective scan's forward and step kernels share. Lanes neighbouring lanes of a warp own Channels
// neighbouring channels, each lane States of their states. A shape S names the numbers.
#pragma once

#include "device/element.cuh"
#include "device/math.cuh"
#include "device/warp.cuh"
#include "scan/selective_scan/selective_scan.hpp"

namespace hax::selective_scan {

using device::load_any;
using device::Packed;
using device::store_any;

// Decays as kernels keep them: 2^x, or 2^x - 1 where that is accurate.
template <class S>
__device__ float decay(float x) {
  return S::kAccurate ? device::exp2m1(x) : device::exp2_approx(x);
}
// decay * h + x
template <class S>
__device__ float decayed(float decay, float h, float x) {
  return S::kAccurate ? h + fmaf(h, decay, x) : fmaf(h, decay, x);
}

template <class S>
__device__ float step_size(float delta, bool apply_softplus) {
  if (!apply_softplus) return delta;
  return S::kAccurate ? device::softplus_accurate(delta) : device::softplus(delta);
}

// Channels that a block owns, all of one group.
struct BlockChannels {
  int64_t group, first;
  int count;

  __device__ BlockChannels(const Inputs& in, unsigned index, int width) {
    const int64_t members = in.groups == 1 ? in.channels : in.channels / in.groups;
    const auto per_group = static_cast<unsigned>((members + width - 1) / width);
    const int64_t begin = int64_t{index % per_group} * width;
    group = index / per_group;
    first = group * members + begin;
    count = static_cast<int>(min(int64_t{width}, members - begin));
  }
};

inline int64_t blocks_of_channels(const Inputs& in, int width) {
  return in.groups > 0 ? in.groups * ceil_div(in.channels / in.groups, width) : 0;
}

// Neighbouring elements as they lie in memory, in words: a fetch ahead then costs no conversion.
template <class T, int Count>
struct Held {
  static constexpr int kPerWord = sizeof(T) < 4 && Count > 1 ? 2 : 1;
  uint32_t words[Count / kPerWord];

  __device__ void clear() {
#pragma unroll
    for (uint32_t& word : words) word = 0;
  }
  // `from` is aligned to all Count elements, or to 16 bytes where they are more.
  __device__ void load(const T* from) {
    constexpr int kBytes = Count * static_cast<int>(sizeof(T));
    const auto move = [&](auto word) {
#pragma unroll
      for (int at = 0; at < kBytes; at += static_cast<int>(sizeof(word))) {
        word = __ldg(reinterpret_cast<const decltype(word)*>(from) + at / sizeof(word));
        memcpy(words + at / 4, &word, sizeof(word));
      }
    };
    if constexpr (kBytes == 2) {
      words[0] = __ldg(reinterpret_cast<const unsigned short*>(from));
    } else if constexpr (kBytes == 4) {
      move(uint32_t{});
    } else if constexpr (kBytes == 8) {
      move(uint2{});
    } else {
      static_assert(kBytes % 16 == 0);
      move(uint4{});
    }
  }
  // From shared memory.
  __device__ void load_shared(const T* from) {
    constexpr int kBytes = Count * static_cast<int>(sizeof(T));
    static_assert(kBytes % 16 == 0);
#pragma unroll
    for (int at = 0; at < kBytes; at += 16) {
      const uint4 part = reinterpret_cast<const uint4*>(from)[at / 16];
      memcpy(words + at / 4, &part, 16);
    }
  }
  // Only after clear().
  __device__ void set(int i, T value) {
    uint32_t bits;
    if constexpr (sizeof(T) == 4) {
      bits = __float_as_uint(value);
    } else {
      bits = value.bits;
    }
    words[i / kPerWord] |= bits << (i % kPerWord * 16);
  }
  // Elements i and i + 1, i being even.
  __device__ void set_pair(int i, float first, float second) {
    const float values[2] = {first, second};
    const Packed<T, 2> pair = device::pack<T>(values);
    memcpy(&words[i / kPerWord], &pair, sizeof(pair));
  }
  __device__ float get(int i) const {
    const uint32_t word = words[i / kPerWord];
    if constexpr (sizeof(T) == 4) {
      return __uint_as_float(word);
    } else {
      return device::to_float(T{static_cast<uint16_t>(i % kPerWord ? word >> 16 : word & 0xffff)});
    }
  }
};

// What a lane holds of its channels.
template <class S>
struct Lane {
  int part;                              // which of the channel's lanes
  int channel;                           // the first, within the block
  float rate[S::kChannels][S::kStates];  // A log2(e); 0 beyond N
  float h[S::kChannels][S::kStates];

  // thread: counted over the lanes of all the block's channels.
  __device__ explicit Lane(unsigned thread = threadIdx.x)
      : part(static_cast<int>(thread % S::kLanes)),
        channel(static_cast<int>(thread / S::kLanes * S::kChannels)) {}
  __device__ Lane(const Inputs& in, const BlockChannels& block, unsigned thread = threadIdx.x)
      : Lane(thread) {
    load_rates(in, block);
  }

  __device__ void load_rates(const Inputs& in, const BlockChannels& block) {
    load(rate, in.A, 0, block, in.states);
#pragma unroll
    for (int m = 0; m < S::kChannels; ++m) {
#pragma unroll
      for (int k = 0; k < S::kStates; ++k) rate[m][k] *= device::kLog2E;
    }
  }

  // f(m, k, channel of the tensor or -1 beyond the block, n)
  template <class F>
  __device__ void for_each(const BlockChannels& block, F&& f) const {
#pragma unroll
    for (int m = 0; m < S::kChannels; ++m) {
#pragma unroll
      for (int k = 0; k < S::kStates; ++k) {
        f(m, k, channel + m < block.count ? block.first + channel + m : int64_t{-1},
          int64_t{part * S::kStates + k});
      }
    }
  }

  // States of a (..., D, N) tensor from `offset` on; zeros where there is none.
  __device__ void load(float (&to)[S::kChannels][S::kStates], const Tensor& tensor, int64_t offset,
                       const BlockChannels& block, int64_t states) const {
    if (float* const rows = whole_rows(tensor, offset, states)) {
      if constexpr (S::kStates % 4 == 0) {
#pragma unroll
        for (int m = 0; m < S::kChannels; ++m) {
          const bool used = channel + m < block.count;
#pragma unroll
          for (int k = 0; k < S::kStates; k += 4) {
            const float4 part =
                used ? *place(rows, tensor, block, m, k) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            to[m][k] = part.x;
            to[m][k + 1] = part.y;
            to[m][k + 2] = part.z;
            to[m][k + 3] = part.w;
          }
        }
      }
      return;
    }
    for_each(block, [&](int m, int k, int64_t c, int64_t n) {
      to[m][k] = tensor && c >= 0 && n < states
                     ? load_any(tensor, offset + c * tensor.stride[tensor.ndim - 2] +
                                            n * tensor.stride[tensor.ndim - 1])
                     : 0.0f;
    });
  }
  __device__ void store(const float (&from)[S::kChannels][S::kStates], const Tensor& tensor,
                        int64_t offset, const BlockChannels& block, int64_t states) const {
    if (float* const rows = whole_rows(tensor, offset, states)) {
      if constexpr (S::kStates % 4 == 0) {
#pragma unroll
        for (int m = 0; m < S::kChannels; ++m) {
          if (channel + m >= block.count) continue;
#pragma unroll
          for (int k = 0; k < S::kStates; k += 4) {
            *place(rows, tensor, block, m, k) =
                make_float4(from[m][k], from[m][k + 1], from[m][k + 2], from[m][k + 3]);
          }
        }
      }
      return;
    }
    for_each(block, [&](int m, int k, int64_t c, int64_t n) {
      if (c >= 0 && n < states) {
        store_any(tensor,
                  offset + c * tensor.stride[tensor.ndim - 2] + n * tensor.stride[tensor.ndim - 1],
                  from[m][k]);
      }
    });
  }

 private:
  // The tensor's memory from `offset` on where its fp32 rows of states can be moved in vectors.
  __device__ static float* whole_rows(const Tensor& tensor, int64_t offset, int64_t states) {
    if (S::kStates % 4 != 0 || states != S::kAllStates || tensor.type != Type::fp32) return nullptr;
    if (tensor.stride[tensor.ndim - 1] != 1 || tensor.stride[tensor.ndim - 2] % 4 != 0)
      return nullptr;
    float* const rows = static_cast<float*>(tensor.data) + offset;
    return reinterpret_cast<uintptr_t>(rows) % 16 == 0 ? rows : nullptr;
  }
  __device__ float4* place(float* rows, const Tensor& tensor, const BlockChannels& block, int m,
                           int k) const {
    return reinterpret_cast<float4*>(rows +
                                     (block.first + channel + m) * tensor.stride[tensor.ndim - 2] +
                                     part * S::kStates + k);
  }
};

// Neighbours in memory, in vectors.
template <int Count>
__device__ void load_row(float (&to)[Count], const float* from) {
  if constexpr (Count % 4 == 0) {
#pragma unroll
    for (int i = 0; i < Count; i += 4) {
      *reinterpret_cast<float4*>(&to[i]) = *reinterpret_cast<const float4*>(from + i);
    }
  } else if constexpr (Count == 2) {
    *reinterpret_cast<float2*>(&to[0]) = *reinterpret_cast<const float2*>(from);
  } else {
#pragma unroll
    for (int i = 0; i < Count; ++i) to[i] = from[i];
  }
}

template <int Count>
__device__ void store_row(float* to, const float (&from)[Count]) {
  if constexpr (Count % 4 == 0) {
#pragma unroll
    for (int i = 0; i < Count; i += 4) {
      *reinterpret_cast<float4*>(to + i) =
          make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
    }
  } else if constexpr (Count == 2) {
    *reinterpret_cast<float2*>(to) = make_float2(from[0], from[1]);
  } else {
#pragma unroll
    for (int i = 0; i < Count; ++i) to[i] = from[i];
  }
}

}  // namespace hax::selective_scan
