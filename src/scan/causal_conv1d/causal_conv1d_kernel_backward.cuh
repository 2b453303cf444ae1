// Backward of the convolution.
#pragma once

#include "scan/causal_conv1d/causal_conv1d_token_stream.cuh"

namespace hax::causal_conv1d {

// Tile on an H100, B8 L4096 D5376 W4 bf16: 0.389 ms; 4 bytes and 3 blocks on a multiprocessor 0.419.
inline constexpr int kBackwardBytes = 8;   // that a thread moves at once
inline constexpr int kBackwardLanes = 32;  // vectors of channels that a block owns
inline constexpr int kBackwardThreads = kBackwardLanes * kBackwardRuns;
inline constexpr int kBackwardStages = 3;

// A thread's sums and what it needs to go from token to token. g is the gradient of the convolution's sum.
template <class S>
struct BackwardWalk {
  using T = typename S::T;
  static constexpr int V = S::V, W = S::W;

  Taps<V, W> taps;
  int first;
  float history[W - 1][V];
  float pending[W - 1][V];  // dx of the last W - 1 tokens, as far as the tokens seen give it
  float dweight[W][V] = {};
  float dbias[V] = {};

  __device__ BackwardWalk(const BackwardParams& p, int64_t channel)
      : taps(p, channel), first(first_tap<W>(p)) {}

  __device__ void clear_pending() {
#pragma unroll
    for (int j = 0; j < W - 1; ++j) {
#pragma unroll
      for (int v = 0; v < V; ++v) pending[j][v] = 0.0f;
    }
  }

  // Takes in a token; dx receives the gradient of the token W - 1 before it. own: its dweight is this run's.
  __device__ void token(const Packed<T, V>& packed_x, const Packed<T, V>& packed_dy, bool silu,
                        float (&dx)[V], bool own = true) {
    float x[V], g[V];
    unpack(x, packed_x);
    unpack(g, packed_dy);
    if (silu) {
      float sum[V];
      convolve<V, W>(sum, taps, history, x, first);
#pragma unroll
      for (int v = 0; v < V; ++v) g[v] *= device::silu_slope(sum[v]);
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (own) {
#pragma unroll
        for (int w = 0; w < W; ++w) {
          if (w >= first) dweight[w][v] += g[v] * (w + 1 < W ? history[w][v] : x[v]);
        }
        dbias[v] += g[v];
      }
      dx[v] = first == 0 ? pending[0][v] + taps.weight[0][v] * g[v] : pending[0][v];
    }
    float next[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
#pragma unroll
      for (int j = 1; j < W - 1; ++j) {
        if (j >= first) pending[j][v] += taps.weight[j][v] * g[v];
      }
      next[v] = taps.weight[W - 1][v] * g[v];
    }
    shift_in<V, W - 1>(history, x);
    shift_in<V, W - 1>(pending, next);
  }
};

// dx of the last tokens of a sequence that ends at `end`, where their run began at token `low`.
template <class S>
__device__ void finish_sequence(const BackwardWalk<S>& walk, const BackwardParams& p, int64_t row,
                                int64_t s, int64_t end, int64_t low, int64_t high,
                                int64_t channel) {
  constexpr int V = S::V, W = S::W;
#pragma unroll
  for (int j = 0; j < W - 1; ++j) {
    const int64_t t = end - (W - 1) + j;
    if (t < low || t >= high) continue;
    float dx[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      dx[v] = walk.pending[j][v];
      if (p.dfinal_state && j >= walk.first) {
        dx[v] += load_any(p.dfinal_state, p.dfinal_state.offset(s, j - walk.first, channel + v));
      }
    }
    device::store_packed<typename S::T, V>(token_address<S>(p.dx, row, t, channel), dx);
  }
}

// x and dy.
template <class S>
using BackwardStream = TokenStream<S, 2, kBackwardThreads, kBackwardStages>;

// A thread's run of tokens [begin, last): dx, and the sums of what the run adds to dweight and dbias. The W - 1 tokens
// behind the run add to its dx, but their dweight is another run's.
template <class S>
__device__ void walk_run(BackwardWalk<S>& walk, typename BackwardStream<S>::Ring& ring, int thread,
                         const BackwardParams& p, int64_t row, int64_t begin, int64_t last,
                         int64_t channel) {
  using T = typename S::T;
  constexpr int V = S::V, W = S::W;
  constexpr int kStage = BackwardStream<S>::kStage;
  SequenceCursor cursor(p.sequences, row, begin);
  const int64_t reach = p.dx ? min(last + W - 1, p.sequences.length) : last;
  BackwardStream<S> stream(ring, thread, {p.x, p.dy}, row, begin, reach, channel);
  const int64_t dx_step = p.dx.stride[1];
  T* dx_at = p.dx ? token_address<S>(p.dx, row, begin, channel) - (W - 1) * dx_step : nullptr;
  // Tokens count from `begin` from here on.
  const int own = static_cast<int>(last - begin), all = static_cast<int>(reach - begin);
  int low = 0, end = 0;  // no dx before `low` is this walk's; the sequence ends at `end`
  const auto start_sequence = [&](int t) {
    low = t;
    end = static_cast<int>(min(cursor.end - begin, int64_t{all} + 1));
    load_history<S>(walk.history, p, row, cursor.s, cursor.begin, begin + t, channel);
    walk.clear_pending();
  };
  const auto emit = [&](int t, const float(&dx)[V]) {
    if (p.dx && t - (W - 1) >= low) device::store_packed<T, V>(dx_at, dx);
    dx_at += dx_step;
  };
  start_sequence(0);
  for (int t = 0; t < all; t += kStage) {
    stream.begin_stage(t);
    if (t + kStage <= min(own, end)) {
#pragma unroll
      for (int i = 0; i < kStage; ++i) {
        float dx[V];
        walk.token(stream.get(0, i), stream.get(1, i), p.silu, dx);
        emit(t + i, dx);
      }
      continue;
    }
#pragma unroll 1
    for (int i = 0; i < kStage && t + i < all; ++i) {
      if (t + i == end) {
        if (p.dx) finish_sequence(walk, p, row, cursor.s, cursor.end, begin + low, last, channel);
        if (t + i >= own) return;
        cursor.advance(p.sequences);
        start_sequence(t + i);
      }
      float dx[V];
      walk.token(stream.get(0, i), stream.get(1, i), p.silu, dx, t + i < own);
      emit(t + i, dx);
    }
  }
  if (all == end && p.dx) {
    finish_sequence(walk, p, row, cursor.s, cursor.end, begin + low, last, channel);
  }
}

// A block for every (row, tile of kBackwardRuns runs of tokens, kBackwardLanes vectors), vectors fastest. Its
// share of dweight and dbias goes to a row of plan.partial, added over the runs in order.
template <class S>
__global__ void __launch_bounds__(kBackwardThreads, 2)
    backward_kernel(const __grid_constant__ BackwardParams p,
                    const __grid_constant__ BackwardPlan plan) {
  constexpr int V = S::V, W = S::W;
  constexpr int kSums = (W + 1) * V;
  __shared__ union {
    typename BackwardStream<S>::Ring ring;
    float shares[kBackwardRuns][kSums][kBackwardLanes];
  } shared;
  const int64_t vectors = p.channels / V;
  const int64_t groups = (vectors + kBackwardLanes - 1) / kBackwardLanes;
  const int64_t tile = blockIdx.x / groups;  // of all rows
  const int64_t first_vector = blockIdx.x % groups * kBackwardLanes;
  const int64_t row = tile / plan.tiles_per_row;
  const int64_t run = plan.tile_tokens / kBackwardRuns;
  const int64_t begin = tile % plan.tiles_per_row * plan.tile_tokens + threadIdx.y * run;
  const int64_t last = min(begin + run, p.sequences.length);
  const int64_t channel = (first_vector + threadIdx.x) * V;

  device::start_next();
  if (plan.at_once && channel < p.channels) {
    announce<S>(p.x, row, begin, last, channel);
    announce<S>(p.dy, row, begin, last, channel);
  }
  device::wait_for_previous();
  BackwardWalk<S> walk(p, min(channel, p.channels - V));
  if (channel < p.channels && begin < last) {
    const int thread = static_cast<int>(threadIdx.y * kBackwardLanes + threadIdx.x);
    walk_run(walk, shared.ring, thread, p, row, begin, last, channel);
  }
  if (!p.sums()) return;
  device::wait_for_copies<0>();
  __syncthreads();  // the ring is done with
#pragma unroll
  for (int v = 0; v < V; ++v) {
#pragma unroll
    for (int w = 0; w < W; ++w) {
      shared.shares[threadIdx.y][w * V + v][threadIdx.x] = walk.dweight[w][v];
    }
    shared.shares[threadIdx.y][W * V + v][threadIdx.x] = walk.dbias[v];
  }
  __syncthreads();
  if (channel >= p.channels) return;
  for (int i = threadIdx.y; i < kSums; i += kBackwardRuns) {
    float sum = 0.0f;
#pragma unroll
    for (int y = 0; y < kBackwardRuns; ++y) sum += shared.shares[y][i][threadIdx.x];
    const int w = i / V - walk.first;
    if (w >= 0) plan.partial[(tile * (p.width + 1) + w) * p.channels + channel + i % V] = sum;
  }
}

}  // namespace hax::causal_conv1d
