// What the convolution's kernels share. A thread owns V neighbouring channels and walks along the tokens
// of a piece of a sequence, the W - 1 inputs before the token in registers.
//
// W is the exact width, or kMaxWidth for every width: then only the last `width` taps count, and the
// others' inputs are not even multiplied, for they may be NaN.
#pragma once

#include "device/element.cuh"
#include "device/math.cuh"
#include "scan/causal_conv1d/causal_conv1d.hpp"
#include "scan/sequence_cursor.cuh"

namespace hax::causal_conv1d {

using device::load_any;
using device::Packed;
using device::store_any;

template <class T_, int V_, int W_>
struct Shape {
  using T = T_;
  static constexpr int V = V_;
  static constexpr int W = W_;
};

// Index of the first tap that counts.
template <int W, class Params>
__device__ int first_tap(const Params& p) {
  return W == kMaxWidth ? kMaxWidth - p.width : 0;
}

template <int V, int W>
struct Taps {
  float weight[W][V];
  float bias[V];

  template <class Params>
  __device__ Taps(const Params& p, int64_t channel) {
    const int first = first_tap<W>(p);
    const bool whole = whole_rows(p.weight);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      bias[v] = p.bias ? *p.bias.template at<float>(channel + v) : 0.0f;
      if constexpr (W == 2 || W == 4) {
        if (whole) {
          float row[W];
          unpack(row, device::load_packed<float, W>(p.weight.template at<float>(channel + v)));
#pragma unroll
          for (int w = 0; w < W; ++w) weight[w][v] = row[w];
          continue;
        }
      }
#pragma unroll
      for (int w = 0; w < W; ++w) {
        weight[w][v] =
            w < first ? 0.0f : load_any(p.weight, p.weight.offset(channel + v, w - first));
      }
    }
  }

  // Whether a channel's taps can be read by one access.
  __device__ static bool whole_rows(const Tensor& weight) {
    return weight.type == Type::fp32 && weight.stride[1] == 1 && weight.stride[0] % W == 0 &&
           reinterpret_cast<uintptr_t>(weight.data) % (W * sizeof(float)) == 0;
  }
};

// V channels of a token of a (B, L, D) tensor; V > 1 only where moves_in_vectors<V>() holds.
template <class S>
__device__ typename S::T* token_address(const Tensor& tensor, int64_t row, int64_t t,
                                        int64_t channel) {
  auto* const token = tensor.at<typename S::T>(row, t);
  return token + (S::V > 1 ? channel : channel * tensor.stride[2]);
}

// The W - 1 inputs before token t of a sequence that begins at token `begin`.
template <class S, class Params>
__device__ void load_history(float (&history)[S::W - 1][S::V], const Params& p, int64_t row,
                             int64_t s, int64_t begin, int64_t t, int64_t channel) {
  const int first = first_tap<S::W>(p);
#pragma unroll
  for (int j = 0; j < S::W - 1; ++j) {
    const int64_t token = t - (S::W - 1) + j;
#pragma unroll
    for (int v = 0; v < S::V; ++v) history[j][v] = 0.0f;
    if (j < first) continue;
    if (token >= begin) {
      unpack(history[j],
             device::load_packed<typename S::T, S::V>(token_address<S>(p.x, row, token, channel)));
    } else if (p.initial_state) {
#pragma unroll
      for (int v = 0; v < S::V; ++v) {
        history[j][v] = load_any(
            p.initial_state, p.initial_state.offset(s, token - begin + p.width - 1, channel + v));
      }
    }
  }
}

// The convolution's sum at the token whose input is x.
template <int V, int W>
__device__ void convolve(float (&sum)[V], const Taps<V, W>& taps, const float (&history)[W - 1][V],
                         const float (&x)[V], int first) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    sum[v] = taps.bias[v];
#pragma unroll
    for (int w = 0; w < W - 1; ++w) {
      if (w >= first) sum[v] += taps.weight[w][v] * history[w][v];
    }
    sum[v] += taps.weight[W - 1][v] * x[v];
  }
}

// Drops the oldest row and takes in a new one.
template <int V, int Rows>
__device__ void shift_in(float (&rows)[Rows][V], const float (&newest)[V]) {
#pragma unroll
  for (int j = 0; j < Rows; ++j) {
#pragma unroll
    for (int v = 0; v < V; ++v) rows[j][v] = j + 1 < Rows ? rows[j + 1][v] : newest[v];
  }
}

}  // namespace hax::causal_conv1d
