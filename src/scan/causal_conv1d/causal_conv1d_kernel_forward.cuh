// Forward and step of the convolution.
#pragma once

#include "scan/causal_conv1d/causal_conv1d_kernel.cuh"

namespace hax::causal_conv1d {

inline constexpr int kForwardBytes = 16;  // that a thread moves at once
inline constexpr int kForwardThreads = 128;

// A thread for every (row, tile of tokens, V channels), channels fastest.
template <class S>
__global__ void __launch_bounds__(kForwardThreads)
    forward_kernel(const __grid_constant__ ForwardParams p,
                   const __grid_constant__ ForwardPlan plan) {
  using T = typename S::T;
  constexpr int V = S::V, W = S::W;
  const int64_t vectors = p.channels / V;
  const int64_t index = int64_t{blockIdx.x} * kForwardThreads + threadIdx.x;
  if (index >= p.sequences.batch * plan.tiles_per_row * vectors) return;
  const int64_t channel = index % vectors * V;
  const int64_t row = index / vectors / plan.tiles_per_row;
  int64_t t = index / vectors % plan.tiles_per_row * plan.tile_tokens;
  const int64_t last = min(t + plan.tile_tokens, p.sequences.length);

  const Taps<V, W> taps(p, channel);
  const int first = first_tap<W>(p);
  SequenceCursor cursor(p.sequences, row, t);
  float history[W - 1][V];
  const T* x = token_address<S>(p.x, row, t, channel);
  T* y = token_address<S>(p.y, row, t, channel);
  const auto token = [&](const Packed<T, V>& packed) {
    float in[V], out[V];
    unpack(in, packed);
    convolve<V, W>(out, taps, history, in, first);
    if (p.silu) {
#pragma unroll
      for (int v = 0; v < V; ++v) out[v] = device::silu(out[v]);
    }
    device::store_packed<T, V>(y, out);
    y += p.y.stride[1];
    shift_in<V, W - 1>(history, in);
  };

  while (true) {
    load_history<S>(history, p, row, cursor.s, cursor.begin, t, channel);
    const int64_t stop = min(last, cursor.end);
    for (; t + kUnroll <= stop; t += kUnroll) {
      Packed<T, V> packed[kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        packed[i] = device::load_packed<T, V>(x + i * p.x.stride[1]);
      }
      x += kUnroll * p.x.stride[1];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) token(packed[i]);
    }
#pragma unroll 1
    for (; t < stop; ++t, x += p.x.stride[1]) token(device::load_packed<T, V>(x));
    if (t >= last) return;
    cursor.advance(p.sequences);
  }
}

inline constexpr int kStateThreads = 256;

// A thread for every (sequence, row of the final state, channel).
template <class T>
__global__ void __launch_bounds__(kStateThreads)
    final_state_kernel(const __grid_constant__ ForwardParams p) {
  const int history = p.width - 1;
  const int64_t index = int64_t{blockIdx.x} * kStateThreads + threadIdx.x;
  if (index >= p.sequences.count() * history * p.channels) return;
  const int64_t channel = index % p.channels;
  const int64_t i = index / p.channels % history;
  const int64_t s = index / p.channels / history;
  const Sequences::Range range = p.sequences.range(s);
  const int64_t token = range.length - history + i;  // from the sequence's start
  float value = 0.0f;
  if (token >= 0) {
    value = device::to_float(*p.x.at<T>(range.row, range.begin + token, channel));
  } else if (p.initial_state) {
    value = load_any(p.initial_state, p.initial_state.offset(s, token + history, channel));
  }
  store_any(p.final_state, p.final_state.offset(s, i, channel), value);
}

// A thread for every (sequence, channel).
template <class T>
__global__ void __launch_bounds__(kStateThreads) step_kernel(const __grid_constant__ StepParams p) {
  constexpr int W = kMaxWidth;
  const int64_t index = int64_t{blockIdx.x} * kStateThreads + threadIdx.x;
  if (index >= p.batch * p.channels) return;
  const int64_t channel = index % p.channels, b = index / p.channels;
  const int64_t source = p.slots.source(b);
  if (source < 0) return;
  const int first = first_tap<W>(p);
  const Taps<1, W> taps(p, channel);
  float history[W - 1][1];
#pragma unroll
  for (int j = 0; j < W - 1; ++j) {
    history[j][0] =
        j < first ? 0.0f : load_any(p.state, p.state.offset(source, j - first, channel));
  }
  for (int64_t t = 0; t < p.tokens; ++t) {
    const float in[1] = {device::to_float(*p.x.at<T>(b, t, channel))};
    float out[1];
    convolve<1, W>(out, taps, history, in, first);
    *p.y.at<T>(b, t, channel) = device::from_float<T>(p.silu ? device::silu(out[0]) : out[0]);
    shift_in<1, W - 1>(history, in);
    const int64_t slot = p.slots.destination(b, t, p.tokens);
    if (slot < 0) continue;
#pragma unroll
    for (int j = 0; j < W - 1; ++j) {
      if (j >= first) store_any(p.state, p.state.offset(slot, j - first, channel), history[j][0]);
    }
  }
}

}  // namespace hax::causal_conv1d
