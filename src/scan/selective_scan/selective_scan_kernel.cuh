// What the selective scan's kernels share. Lanes neighbouring lanes of a warp own Channels neighbouring
// channels, each lane States of their states; a block walks one sequence in tiles of kTile tokens, whose
// inputs all its threads fetch and turn to fp32 in shared memory, every number once.
#pragma once

#include "device/element.cuh"
#include "device/math.cuh"
#include "device/warp.cuh"
#include "scan/selective_scan/selective_scan.hpp"

namespace hax::selective_scan {

using device::load_any;
using device::Packed;
using device::store_any;

template <class T_, int Lanes, int States, int Channels_, int Tile>
struct Shape {
  using T = T_;
  static constexpr int kLanes = Lanes;
  static constexpr int kStates = States;       // of a lane and channel
  static constexpr int kChannels = Channels_;  // of a lane
  static constexpr int kTile = Tile;
  static constexpr int kThreads = kChannels > 1 ? 128 : 256;
  static constexpr int kWidth = kThreads / kLanes * kChannels;  // channels of a block
  static constexpr int kAllStates = kLanes * kStates;           // N, rounded up

  // A thread fetches kElements neighbouring channels of one token of a tile, in accesses of kVector.
  static constexpr int kGroups = kThreads / kTile;
  static constexpr int kElements = kWidth / kGroups;
  static constexpr int kVector =
      kElements < device::kVectorElements<T> ? kElements : device::kVectorElements<T>;
  static constexpr int kVectors = kElements / kVector;
  static_assert(kThreads % kTile == 0 && kWidth % kGroups == 0 && kElements % kVector == 0);

  // Bias of an exponential: fp32 activations get full precision, whatever a state remembers.
  static constexpr bool kAccurate = type_of<T> == Type::fp32;
};

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

// A thread's elements of a tile of a (B, L, D) tensor, as they lie in memory: in words, which hold two of
// the 16-bit elements each.
template <class S>
struct Fetched {
  using T = typename S::T;
  static constexpr int kPerWord = sizeof(T) < 4 && S::kElements > 1 ? 2 : 1;
  static constexpr int kWords = S::kElements / kPerWord;
  uint32_t words[kWords];

  // Zeros beyond `tokens` tokens and the block's channels.
  __device__ void load(const Tensor& tensor, bool vectors, int64_t row, int64_t token, int tokens,
                       const BlockChannels& block) {
    const int t = threadIdx.x / S::kGroups;
    const int c = threadIdx.x % S::kGroups * S::kElements;
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = 0;
    if (t >= tokens) return;
    const T* const from = tensor.at<T>(row, token + t);
    if (vectors) {
      constexpr int kStep = kWords / S::kVectors;
#pragma unroll
      for (int i = 0; i < S::kVectors; ++i) {
        const int channel = c + i * S::kVector;
        if (channel < block.count) {
          const auto part = device::load_packed<T, S::kVector>(from + block.first + channel);
          memcpy(&words[i * kStep], &part, sizeof(part));
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < S::kElements; ++i) {
        if (c + i < block.count) {
          words[i / kPerWord] |= bits_of(from[(block.first + c + i) * tensor.stride[2]])
                                 << (i % kPerWord * 16);
        }
      }
    }
  }

  __device__ float operator[](int i) const {
    const uint32_t word = words[i / kPerWord];
    if constexpr (sizeof(T) == 4) {
      return __uint_as_float(word);
    } else {
      return device::to_float(T{static_cast<uint16_t>(i % kPerWord ? word >> 16 : word & 0xffff)});
    }
  }

 private:
  __device__ static uint32_t bits_of(T value) {
    if constexpr (sizeof(T) == 4) {
      return __float_as_uint(value);
    } else {
      return value.bits;
    }
  }
};

// The reverse: writes a thread's elements of a tile.
template <class S>
__device__ void store_elements(const Tensor& tensor, bool vectors, int64_t row, int64_t token,
                               int tokens, const BlockChannels& block,
                               const float (&values)[S::kElements]) {
  using T = typename S::T;
  const int t = threadIdx.x / S::kGroups;
  const int c = threadIdx.x % S::kGroups * S::kElements;
  if (t >= tokens) return;
  T* const to = tensor.at<T>(row, token + t);
#pragma unroll
  for (int i = 0; i < S::kVectors; ++i) {
    const int channel = c + i * S::kVector;
    if (channel >= block.count) continue;
    if (vectors) {
      float part[S::kVector];
#pragma unroll
      for (int v = 0; v < S::kVector; ++v) part[v] = values[i * S::kVector + v];
      device::store_packed<T, S::kVector>(to + block.first + channel, part);
    } else {
#pragma unroll
      for (int v = 0; v < S::kVector; ++v) {
        if (channel + v < block.count) {
          to[(block.first + channel + v) * tensor.stride[2]] =
              device::from_float<T>(values[i * S::kVector + v]);
        }
      }
    }
  }
}

// A block's channels of a (D) tensor, or zeros, in shared memory.
template <class S>
__device__ void load_channels(float* to, const Tensor& tensor, const BlockChannels& block) {
  for (int c = threadIdx.x; c < S::kWidth; c += S::kThreads) {
    to[c] = tensor && c < block.count ? *tensor.at<float>(block.first + c) : 0.0f;
  }
}

// A tile's B and C on their way to shared memory, (kTile, kAllStates) with zeros beyond `tokens` and N. Where
// rows are whole vectors and few, each of the first threads holds one vector of B or C from fetch() to
// store(); otherwise store() reads them itself.
template <class S>
class StateRows {
 public:
  static constexpr int kVector = device::kVectorElements<typename S::T>;
  static constexpr int kPerRow = S::kAllStates / kVector;
  static constexpr int kOfOne = S::kTile * kPerRow;  // vectors
  static constexpr bool kInVectors = S::kAllStates % kVector == 0 && 2 * kOfOne <= S::kThreads;

  __device__ StateRows(const Inputs& in, bool vectors)
      : in_(in), vectors_(kInVectors && vectors && in.states == S::kAllStates) {}

  __device__ void fetch(int64_t row, int64_t token, int tokens, int64_t group) {
    if constexpr (kInVectors) {
      if (!vectors_) return;
      const int i = threadIdx.x % kOfOne, t = i / kPerRow;
      held_ = {};
      if (threadIdx.x < 2 * kOfOne && t < tokens) {
        const Tensor& tensor = threadIdx.x < kOfOne ? in_.B : in_.C;
        held_ = device::load_packed<typename S::T, kVector>(
            tensor.at<typename S::T>(row, token + t, group) + i % kPerRow * kVector);
      }
    }
  }

  __device__ void store(float* B, float* C, int64_t row, int64_t token, int tokens,
                        int64_t group) const {
    if constexpr (kInVectors) {
      if (vectors_) {
        if (threadIdx.x < 2 * kOfOne) {
          float values[kVector];
          unpack(values, held_);
          float* const to = (threadIdx.x < kOfOne ? B : C) + threadIdx.x % kOfOne * kVector;
#pragma unroll
          for (int v = 0; v < kVector; v += 4) {
            *reinterpret_cast<float4*>(to + v) =
                make_float4(values[v], values[v + 1], values[v + 2], values[v + 3]);
          }
        }
        return;
      }
    }
    copy(B, in_.B, row, token, tokens, group);
    copy(C, in_.C, row, token, tokens, group);
  }

 private:
  __device__ void copy(float* to, const Tensor& tensor, int64_t row, int64_t token, int tokens,
                       int64_t group) const {
    using T = typename S::T;
    const int64_t states = in_.states;
#pragma unroll 2
    for (int i = threadIdx.x; i < S::kTile * S::kAllStates; i += S::kThreads) {
      const int t = i / S::kAllStates, n = i % S::kAllStates;
      to[i] = t < tokens && n < states ? device::to_float(*tensor.at<T>(row, token + t, group, n))
                                       : 0.0f;
    }
  }

  const Inputs& in_;
  const bool vectors_;
  Packed<typename S::T, kVector> held_;
};

// Place of a channel in a row of pairs: 16-byte pieces are permuted within 128 bytes so that neither the
// threads that fetch nor the lanes that scan meet in a bank.
template <class S>
__device__ int pair_place(int t, int c) {
  if constexpr (S::kWidth % 16 != 0) {
    return t * S::kWidth + c;
  } else {
    const int piece = c / 2, high = piece / 8;
    return t * S::kWidth + (high * 8 + ((piece ^ (high + 4 * t)) & 7)) * 2 + c % 2;
  }
}

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
