// What backward does beside its walks: the sums of their shares of dweight and dbias, and the initial state's gradient.
#pragma once

#include "device/early_start.cuh"
#include "scan/causal_conv1d/causal_conv1d_kernel.cuh"

namespace hax::causal_conv1d {

inline constexpr int kReduceLanes = 32;
inline constexpr int kReduceRuns = 16;

// Adds the rows of plan.partial, always in the same order. A block owns 32 of the (W + 1) D columns.
__global__ void __launch_bounds__(kReduceLanes* kReduceRuns)
    reduce_kernel(const __grid_constant__ BackwardParams p,
                  const __grid_constant__ BackwardPlan plan) {
  __shared__ float shares[kReduceRuns][kReduceLanes];
  const int64_t columns = (p.width + 1) * p.channels;
  const int64_t column = int64_t{blockIdx.x} * kReduceLanes + threadIdx.x;
  const int64_t rows = p.sequences.batch * plan.tiles_per_row;
  float sum = 0.0f;
  device::start_next();
  device::wait_for_previous();
  if (column < columns) {
#pragma unroll 4
    for (int64_t i = threadIdx.y; i < rows; i += kReduceRuns) {
      sum += plan.partial[i * columns + column];
    }
  }
  shares[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= columns) return;
  sum = 0.0f;
#pragma unroll
  for (int y = 0; y < kReduceRuns; ++y) sum += shares[y][threadIdx.x];
  const int64_t w = column / p.channels, channel = column % p.channels;
  if (w < p.width && p.dweight) *p.dweight.at<float>(channel, w) = sum;
  if (w == p.width && p.dbias) *p.dbias.at<float>(channel) = sum;
}

inline constexpr int kInitialThreads = 128;

// The initial state is the W - 1 inputs before token 0, which the first W - 1 tokens see. A thread for
// every (sequence, channel).
template <class T>
__global__ void __launch_bounds__(kInitialThreads)
    initial_state_kernel(const __grid_constant__ BackwardParams p) {
  constexpr int W = kMaxWidth;
  using S = Shape<T, 1, W>;
  const int64_t index = int64_t{blockIdx.x} * kInitialThreads + threadIdx.x;
  if (index >= p.sequences.count() * p.channels) return;
  const int64_t channel = index % p.channels, s = index / p.channels;
  const Sequences::Range range = p.sequences.range(s);
  const Taps<1, W> taps(p, channel);
  const int first = first_tap<W>(p);
  float history[W - 1][1];
  load_history<S>(history, p, range.row, s, range.begin, range.begin, channel);
  float gradient[W - 1] = {};  // of the state's rows, from `first` on
#pragma unroll
  for (int t = 0; t < W - 1; ++t) {
    if (t >= p.width - 1 || t >= range.length) break;
    const float x[1] = {device::to_float(*p.x.at<T>(range.row, range.begin + t, channel))};
    float g = device::to_float(*p.dy.at<T>(range.row, range.begin + t, channel));
    if (p.silu) {
      float sum[1];
      convolve<1, W>(sum, taps, history, x, first);
      g *= device::silu_slope(sum[0]);
    }
    // Token t sees row j of the state through tap j - t.
#pragma unroll
    for (int j = 0; j < W - 1; ++j) {
      if (j - t >= first) gradient[j] += taps.weight[j >= t ? j - t : 0][0] * g;
    }
    shift_in<1, W - 1>(history, x);
  }
#pragma unroll
  for (int j = 0; j < W - 1; ++j) {
    if (j < first) continue;
    const int64_t i = j - first;
    float value = gradient[j];
    if (p.dfinal_state && i >= range.length) {
      value += load_any(p.dfinal_state, p.dfinal_state.offset(s, i - range.length, channel));
    }
    store_any(p.dinitial_state, p.dinitial_state.offset(s, i, channel), value);
  }
}

}  // namespace hax::causal_conv1d
