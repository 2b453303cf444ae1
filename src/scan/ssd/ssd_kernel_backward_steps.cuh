// dt and the decays of ssd's backward, once for all kernels, and the way back from their gradients. A warp serves
// one head of a chunk, a lane neighbouring tokens of it.
#pragma once

#include "scan/ssd/ssd_kernel_backward.cuh"

namespace hax::ssd {

inline constexpr int kStepThreads = 256;
inline constexpr int kStepHeads = kStepThreads / device::kWarp;

struct StepSize {
  float dt, slope;
};

__device__ inline StepSize step_of(const Inputs& in, int64_t row, int64_t token, int64_t head) {
  float raw = device::load_any(in.dt, in.dt.offset(row, token, head));
  if (in.dt_bias) raw += *in.dt_bias.at<float>(head);
  const float dt = device::softplus_accurate(raw);
  if (dt < in.dt_min) return {in.dt_min, 0.0f};
  if (dt > in.dt_max) return {in.dt_max, 0.0f};
  return {dt, device::sigmoid(raw)};
}

// Sum of the lanes before this one.
__device__ inline double sum_before(double value, int lane) {
  double sum = value;
#pragma unroll
  for (int distance = 1; distance < device::kWarp; distance *= 2) {
    const double other = __shfl_up_sync(0xffffffffu, sum, distance);
    if (lane >= distance) sum += other;
  }
  return sum - value;
}

// Fills plan.steps, plan.decays and plan.weights. A block for every (chunk, kStepHeads heads), heads fastest.
template <class S>
__global__ void __launch_bounds__(kStepThreads)
    backward_steps_kernel(const __grid_constant__ BackwardParams p,
                          const __grid_constant__ CudaBackwardPlan plan) {
  constexpr int K = S::kChunk / device::kWarp;
  using T = typename S::T;
  const int64_t blocks = (p.heads + kStepHeads - 1) / kStepHeads;
  const int lane = threadIdx.x % device::kWarp;
  const int64_t head = blockIdx.x % blocks * kStepHeads + threadIdx.x / device::kWarp;
  if (head >= p.heads) return;
  const ChunkAt chunk(p.sequences, plan.chunks, blockIdx.x / blocks);
  if (chunk.tokens == 0) return;

  const double rate = static_cast<double>(*p.A.at<float>(head)) * 1.4426950408889634;
  float dt[K];
  double sums[K], total = 0.0;
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const int t = lane * K + i;
    dt[i] = t < chunk.tokens ? step_of(p, chunk.sequence.row, chunk.token() + t, head).dt : 0.0f;
    total += static_cast<double>(dt[i]) * rate;
    sums[i] = total;
  }
  const double before = sum_before(total, lane);
  const double end = __shfl_sync(0xffffffffu, before + total, device::kWarp - 1);
  // The first token behind the last checkpoint in the chunk; what is before it is not needed.
  int start = 0;
  if (p.checkpoints) {
    const int64_t stop = chunk.first + chunk.tokens;
    const int64_t last = stop / p.checkpoints.every * p.checkpoints.every;
    if (last > chunk.first) start = static_cast<int>(last - chunk.first);
  }
  const int64_t at = chunk.place * p.heads + head;
  const int64_t per_direction = plan.chunks.count * p.heads * S::kChunk;
  float* const steps = plan.steps + at * 3 * S::kChunk + lane * K;
  T* const weights = static_cast<T*>(plan.weights) + at * S::kChunk + lane * K;
  float from_start = 1.0f;
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const double sum = before + sums[i];
    const float high = static_cast<float>(sum);
    const int t = lane * K + i;
    steps[i] = dt[i];
    steps[S::kChunk + i] = high;
    steps[2 * S::kChunk + i] = static_cast<float>(sum - static_cast<double>(high));
    const float to_end = device::exp2_approx(static_cast<float>(end - sum));
    weights[i] = device::from_float<T>(t >= start ? dt[i] * to_end : 0.0f);
    weights[per_direction + i] =
        device::from_float<T>(device::exp2_approx(static_cast<float>(sum)));
    if (t == start - 1) from_start = to_end;
  }
  const float whole = device::exp2_approx(static_cast<float>(end));
  if (start == 0) from_start = whole;
  const bool own = start == 0 ? lane == 0 : lane == (start - 1) / K;
  if (own) {
    plan.decays[at * 4] = from_start;
    plan.decays[at * 4 + 1] = whole;
  }
}

// ddt from plan.step_sums, and plan.dbias. Blocks as above.
template <class S>
__global__ void __launch_bounds__(kStepThreads)
    backward_step_gradients_kernel(const __grid_constant__ BackwardParams p,
                                   const __grid_constant__ CudaBackwardPlan plan) {
  const int64_t blocks = (p.heads + kStepHeads - 1) / kStepHeads;
  const int lane = threadIdx.x % device::kWarp;
  const int64_t head = blockIdx.x % blocks * kStepHeads + threadIdx.x / device::kWarp;
  if (head >= p.heads) return;
  const ChunkAt chunk(p.sequences, plan.chunks, blockIdx.x / blocks);
  const int64_t at = chunk.place * p.heads + head;
  const int64_t per_slice = plan.chunks.count * p.heads * S::kChunk;
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < S::kChunk / device::kWarp; ++i) {
    const int t = lane + i * device::kWarp;
    if (t >= chunk.tokens) continue;
    float sum = 0.0f;
    for (int64_t slice = 0; slice < plan.slices; ++slice) {
      sum += plan.step_sums[slice * per_slice + at * S::kChunk + t];
    }
    const int64_t row = chunk.sequence.row, token = chunk.token() + t;
    const float slope = step_of(p, row, token, head).slope;
    const float ddt = slope == 0.0f ? 0.0f : sum * slope;
    if (p.ddt) device::store_any(p.ddt, p.ddt.offset(row, token, head), ddt);
    total += ddt;
  }
  total = device::warp_sum(total);
  if (lane == 0) plan.dbias[at] = total;
}

}  // namespace hax::ssd
