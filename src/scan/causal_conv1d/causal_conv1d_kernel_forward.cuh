// Forward and step of the convolution.
#pragma once

#include "scan/causal_conv1d/causal_conv1d_token_stream.cuh"

namespace hax::causal_conv1d {

// Tile on an H100, B8 L4096 D5376 W4 bf16: 8 bytes, 4 stages 0.247 ms; 3 stages 0.256; 16 bytes, 4 stages 0.254.
inline constexpr int kForwardBytes = 8;  // that a thread moves at once
inline constexpr int kForwardThreads = 128;
inline constexpr int kForwardBlocks = 6;  // on a multiprocessor
inline constexpr int kForwardStages = 4;

// A thread for every (row, tile of tokens, V channels), channels fastest.
template <class S>
__global__ void __launch_bounds__(kForwardThreads, kForwardBlocks)
    forward_kernel(const __grid_constant__ ForwardParams p,
                   const __grid_constant__ ForwardPlan plan) {
  using T = typename S::T;
  using Stream = TokenStream<S, 1, kForwardThreads, kForwardStages>;
  constexpr int V = S::V, W = S::W;
  __shared__ typename Stream::Ring ring;
  const int64_t vectors = p.channels / V;
  const int64_t index = int64_t{blockIdx.x} * kForwardThreads + threadIdx.x;
  device::start_next();
  if (index >= p.sequences.batch * plan.tiles_per_row * vectors) return;
  const int64_t channel = index % vectors * V;
  const int64_t row = index / vectors / plan.tiles_per_row;
  const int64_t begin = index / vectors % plan.tiles_per_row * plan.tile_tokens;
  const int64_t last = min(begin + plan.tile_tokens, p.sequences.length);

  device::wait_for_previous();
  Stream stream(ring, static_cast<int>(threadIdx.x), {p.x}, row, begin, last, channel);
  const Taps<V, W> taps(p, channel);
  const int first = first_tap<W>(p);
  SequenceCursor cursor(p.sequences, row, begin);
  float history[W - 1][V];
  T* y = token_address<S>(p.y, row, begin, channel);
  const auto token = [&](int i) {
    float in[V], out[V];
    unpack(in, stream.get(0, i));
    convolve<V, W>(out, taps, history, in, first);
    if (p.silu) {
#pragma unroll
      for (int v = 0; v < V; ++v) out[v] = device::silu(out[v]);
    }
    device::store_packed<T, V>(y, out);
    y += p.y.stride[1];
    shift_in<V, W - 1>(history, in);
  };
  // Tokens count from `begin` from here on.
  const int tokens = static_cast<int>(last - begin);
  int end = 0;  // of the sequence
  const auto start_sequence = [&](int t) {
    end = static_cast<int>(min(cursor.end - begin, int64_t{tokens}));
    load_history<S>(history, p, row, cursor.s, cursor.begin, begin + t, channel);
  };
  start_sequence(0);
  for (int t = 0; t < tokens; t += Stream::kStage) {
    stream.begin_stage(t);
    if (t + Stream::kStage <= end) {
#pragma unroll
      for (int i = 0; i < Stream::kStage; ++i) token(i);
      continue;
    }
#pragma unroll 1
    for (int i = 0; i < Stream::kStage && t + i < tokens; ++i) {
      if (t + i == end) {
        cursor.advance(p.sequences);
        start_sequence(t + i);
      }
      token(i);
    }
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

inline constexpr int kStepBytes = 4;  // of x that a thread moves at once

// A thread for every (sequence, V channels).
template <class S>
__global__ void __launch_bounds__(kStateThreads) step_kernel(const __grid_constant__ StepParams p) {
  using T = typename S::T;
  constexpr int V = S::V, W = S::W;
  const int64_t vectors = p.channels / V;
  const int64_t index = int64_t{blockIdx.x} * kStateThreads + threadIdx.x;
  if (index >= p.batch * vectors) return;
  const int64_t channel = index % vectors * V, b = index / vectors;
  const int64_t source = p.slots.source(b);
  if (source < 0) return;
  const int first = first_tap<W>(p);
  float history[W - 1][V] = {};
#pragma unroll
  for (int j = 0; j < W - 1; ++j) {
    if (j >= first) {
      device::load_any(history[j], p.state, p.state.offset(source, j - first, channel));
    }
  }
  const Taps<V, W> taps(p, channel);
  for (int64_t t = 0; t < p.tokens; ++t) {
    float in[V], out[V];
    unpack(in, device::load_packed<T, V>(token_address<S>(p.x, b, t, channel)));
    convolve<V, W>(out, taps, history, in, first);
    if (p.silu) {
#pragma unroll
      for (int v = 0; v < V; ++v) out[v] = device::silu(out[v]);
    }
    device::store_packed<T, V>(token_address<S>(p.y, b, t, channel), out);
    shift_in<V, W - 1>(history, in);
    const int64_t slot = p.slots.destination(b, t, p.tokens);
    if (slot < 0) continue;
#pragma unroll
    for (int j = 0; j < W - 1; ++j) {
      if (j >= first) {
        device::store_any(p.state, p.state.offset(slot, j - first, channel), history[j]);
      }
    }
  }
}

}  // namespace hax::causal_conv1d
