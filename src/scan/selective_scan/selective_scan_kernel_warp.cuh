// What one warp of the selective scan's forward fetches and writes for a chunk of tokens. Every lane has
// elements of its own: the lane's channels at every kLanes-th token.
#pragma once

#include "device/async_copy.cuh"
#include "scan/selective_scan/selective_scan_kernel.cuh"

namespace hax::selective_scan {

// Vectors: rows of B and C are whole vectors, and where a lane has two channels, these can be moved at once.
template <class T_, int Lanes, int States, int Channels, int Tokens, bool Vectors>
struct WarpShape {
  using T = T_;
  static constexpr bool kVectors = Vectors;
  static constexpr int kLanes = Lanes;
  static constexpr int kStates = States;      // of a lane and channel
  static constexpr int kChannels = Channels;  // of a lane
  static constexpr int kTokens = Tokens;      // of a chunk
  static constexpr int kAllStates = kLanes * kStates;
  static constexpr int kRows = device::kWarp / kLanes;
  static constexpr int kWidth = kRows * kChannels;                      // channels of a warp
  static constexpr int kOwn = kTokens > kLanes ? kTokens / kLanes : 1;  // tokens of a lane's own
  static constexpr int kSummed = kTokens < kLanes ? kTokens : kLanes;   // tokens summed together
  static constexpr bool kAccurate = type_of<T> == Type::fp32;
  static_assert(kTokens % kLanes == 0 || kLanes % kTokens == 0);
  static_assert(kVectors || kChannels == 1);
};

// A lane's own elements of a chunk.
template <class S>
struct Elements {
  Held<typename S::T, S::kChannels> at[S::kOwn];
};

// How far a tensor's tokens are apart, in bytes: kLanes of them, and a ring's chunks.
struct Strides {
  int64_t lanes, chunks;
};

// A (B, L, D) tensor, read or written chunk by chunk. Its strides stay in the kernel's parameters.
template <class S>
class Stream {
 public:
  using T = typename S::T;

  // token, channel: the lane's first.
  __device__ Stream(const Tensor& tensor, const Strides& strides, int64_t row, int64_t token,
                    int64_t channel)
      : at_(reinterpret_cast<char*>(tensor ? tensor.at<T>(row, token, channel) : nullptr)),
        strides_(strides) {}

  __device__ void advance() { at_ += strides_.chunks; }

  // tokens: those of the chunk from the lane's first on; zeros beyond.
  __device__ void load(Elements<S>& to, int tokens) const {
#pragma unroll
    for (int i = 0; i < S::kOwn; ++i) {
      to.at[i].clear();
      if (i * S::kLanes < tokens) to.at[i].load(reinterpret_cast<const T*>(own(i)));
    }
  }
  __device__ void store(int i, const float (&values)[S::kChannels]) const {
    device::store_packed<T, S::kChannels>(reinterpret_cast<T*>(own(i)), values);
  }

 private:
  __device__ char* own(int i) const { return at_ + i * strides_.lanes; }

  char* at_;
  const Strides& strides_;
};

// A chunk's B and C, fetched by the warp together and kept in fp32, (2, kTokens, kAllStates), with zeros
// beyond the chunk's tokens and N.
template <class S>
class ChunkStates {
 public:
  using T = typename S::T;
  static constexpr int kOfLane = 2 * S::kTokens * S::kAllStates / device::kWarp;
  static constexpr int kVector =
      kOfLane < device::kVectorElements<T> ? kOfLane : device::kVectorElements<T>;
  static constexpr int kPerRow = S::kAllStates / kVector;
  static constexpr int kFetches = kOfLane / kVector;
  static_assert(S::kAllStates % kVector == 0 && kVector % 4 == 0);

  // B, C: chunks of a ring are so many bytes apart.
  __device__ ChunkStates(const Inputs& in, int64_t B, int64_t C, int64_t row, int64_t token,
                         int64_t group, int thread)
      : in_(in), thread_(static_cast<unsigned>(thread)) {
#pragma unroll
    for (int j = 0; j < kFetches; ++j) {
      const bool first = place(j) < S::kTokens * kPerRow;
      const Tensor& tensor = first ? in.B : in.C;
      stride_[j] = first ? B : C;
      at_[j] = reinterpret_cast<const char*>(
          tensor.at<T>(row, token + own_token(j), group, own_state(j)));
    }
  }

  __device__ void advance() {
#pragma unroll
    for (int j = 0; j < kFetches; ++j) at_[j] += stride_[j];
  }

  using Rows = Held<T, kVector>[kFetches];

  __device__ void fetch(Rows& held, int tokens) const {
#pragma unroll
    for (int j = 0; j < kFetches; ++j) {
      held[j].clear();
      if (own_token(j) >= tokens) continue;
      const T* const from = reinterpret_cast<const T*>(at_[j]);
      if constexpr (S::kVectors) {
        held[j].load(from);
      } else {
        const int64_t stride = (place(j) < S::kTokens * kPerRow ? in_.B : in_.C).stride[3];
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          if (own_state(j) + v < in_.states) held[j].set(v, from[v * stride]);
        }
      }
    }
  }

  // The same into memory of the lanes' own, vector after vector.
  __device__ void copy(T* to, int tokens) const {
    constexpr int kBytes = kVector * static_cast<int>(sizeof(T));
#pragma unroll
    for (int j = 0; j < kFetches; ++j) {
      device::copy_async_or_clear<kBytes>(to + place(j) * kVector, at_[j], own_token(j) < tokens);
    }
  }

  __device__ void store(float* to, const Rows& held) const {
#pragma unroll
    for (int j = 0; j < kFetches; ++j) {
#pragma unroll
      for (int v = 0; v < kVector; v += 4) {
        *reinterpret_cast<float4*>(to + place(j) * kVector + v) =
            make_float4(held[j].get(v), held[j].get(v + 1), held[j].get(v + 2), held[j].get(v + 3));
      }
    }
  }

  // Of fetch j, in vectors from the first of B on.
  __device__ unsigned place(int j) const {
    return thread_ + static_cast<unsigned>(j * device::kWarp);
  }

 private:
  __device__ int own_token(int j) const {
    return static_cast<int>(place(j) / kPerRow % S::kTokens);
  }
  __device__ int own_state(int j) const { return static_cast<int>(place(j) % kPerRow * kVector); }

  const Inputs& in_;
  const unsigned thread_;
  const char* at_[kFetches];
  int64_t stride_[kFetches];
};

// dt and dt u of a chunk, 16 bytes for two channels or, where a lane has one, for two tokens.
template <class S>
struct ChunkPairs {
  float2 pairs[S::kTokens * S::kWidth];

  __device__ void store(int t, int row, const float2 (&values)[S::kChannels]) {
    if constexpr (S::kChannels == 2) {
      *reinterpret_cast<float4*>(&pairs[place(t, row)]) =
          make_float4(values[0].x, values[0].y, values[1].x, values[1].y);
    } else {
      pairs[place(t, row)] = values[0];
    }
  }
  __device__ void load(float2 (&to)[S::kTokens][S::kChannels], int row) const {
    constexpr int kStep = S::kChannels == 1 ? 2 : 1;
#pragma unroll
    for (int t = 0; t < S::kTokens; t += kStep) {
      const float4 both = *reinterpret_cast<const float4*>(&pairs[place(t, row)]);
      to[t][0] = make_float2(both.x, both.y);
      to[t + kStep - 1][S::kChannels - 1] = make_float2(both.z, both.w);
    }
  }

 private:
  __device__ static int place(int t, int row) {
    static_assert(S::kChannels <= 2 && S::kTokens % 2 == 0);
    // Swizzled: neither the lanes that store tokens of a row nor those that load rows of a token meet in a bank.
    if (S::kChannels == 2) return (row * S::kTokens + (t ^ (row / 2 % S::kTokens))) * 2;
    return (t / 2 * S::kRows + row) * 2 + t % 2;
  }
};

}  // namespace hax::selective_scan
