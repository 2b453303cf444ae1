// dt and the decays of ssd's backward, once for all kernels, and the way back from their gradients. A block serves
// neighbouring heads of a chunk. Tensors have tokens of heads, the workspace heads of tokens; they are turned round in
// shared memory.
#pragma once

#include "scan/ssd/ssd_kernel_backward.cuh"

namespace hax::ssd {

inline constexpr int kStepsThreads = 256;
inline constexpr int kStepsWarps = kStepsThreads / device::kWarp;
inline constexpr int kStepHeads = device::kWarp;

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

// The heads of a block and its chunk; blocks of heads are fastest.
struct StepBlock {
  ChunkAt chunk;
  int64_t first;  // head
  int count;

  __device__ StepBlock(const Inputs& in, const Sequences& sequences, const Chunks& chunks)
      : chunk(sequences, chunks, blockIdx.x / blocks_of(in)),
        first(blockIdx.x % blocks_of(in) * kStepHeads) {
    count = static_cast<int>(min(int64_t{kStepHeads}, in.heads - first));
  }
  static __device__ int64_t blocks_of(const Inputs& in) {
    return (in.heads + kStepHeads - 1) / kStepHeads;
  }
};

// One head's part of plan.steps, plan.decays and plan.weights, by a warp.
template <class S>
__device__ void scan_steps(const BackwardParams& p, const CudaBackwardPlan& plan,
                           const ChunkAt& chunk, int64_t head, const float* from, int lane) {
  constexpr int K = S::kChunk / device::kWarp;
  using T = typename S::T;
  const double rate = static_cast<double>(*p.A.at<float>(head)) * 1.4426950408889634;
  float dt[K];
  double sums[K], total = 0.0;
#pragma unroll
  for (int i = 0; i < K; ++i) {
    dt[i] = from[lane * K + i];
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
  float high[K], low[K], to_end[K], from_start[K];
  const float whole = device::exp2_approx(static_cast<float>(end));
  float fading = whole;  // over the chunk, or from the checkpoint on
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const double sum = before + sums[i];
    high[i] = static_cast<float>(sum);
    low[i] = static_cast<float>(sum - static_cast<double>(high[i]));
    const float decay = device::exp2_approx(static_cast<float>(end - sum));
    const int t = lane * K + i;
    to_end[i] = t >= start ? dt[i] * decay : 0.0f;
    from_start[i] = device::exp2_approx(static_cast<float>(sum));
    if (t == start - 1) fading = decay;
  }
  const int64_t at = chunk.place * p.heads + head;
  float* const steps = plan.steps + at * 3 * S::kChunk + lane * K;
  device::store_packed<float, K>(steps, dt);
  device::store_packed<float, K>(steps + S::kChunk, high);
  device::store_packed<float, K>(steps + 2 * S::kChunk, low);
  T* const weights = static_cast<T*>(plan.weights) + at * S::kChunk + lane * K;
  device::store_packed<T, K>(weights, to_end);
  device::store_packed<T, K>(weights + plan.chunks.count * p.heads * S::kChunk, from_start);
  if (lane == (start == 0 ? 0 : (start - 1) / K)) {
    plan.decays[at * 4] = fading;
    plan.decays[at * 4 + 1] = whole;
  }
}

template <class S>
__global__ void __launch_bounds__(kStepsThreads)
    backward_steps_kernel(const __grid_constant__ BackwardParams p,
                          const __grid_constant__ CudaBackwardPlan plan) {
  __shared__ float dt[kStepHeads][S::kChunk + 1];
  const StepBlock block(p, p.sequences, plan.chunks);
  if (block.chunk.tokens == 0) return;
  const int lane = threadIdx.x % device::kWarp, warp = threadIdx.x / device::kWarp;
#pragma unroll 4
  for (int t = warp; t < S::kChunk; t += kStepsWarps) {
    const bool used = t < block.chunk.tokens && lane < block.count;
    dt[lane][t] =
        used ? step_of(p, block.chunk.sequence.row, block.chunk.token() + t, block.first + lane).dt
             : 0.0f;
  }
  __syncthreads();
  for (int h = warp; h < block.count; h += kStepsWarps) {
    scan_steps<S>(p, plan, block.chunk, block.first + h, dt[h], lane);
  }
}

// ddt from plan.step_sums, and plan.dbias.
template <class S>
__global__ void __launch_bounds__(kStepsThreads)
    backward_step_gradients_kernel(const __grid_constant__ BackwardParams p,
                                   const __grid_constant__ CudaBackwardPlan plan) {
  __shared__ float sums[kStepHeads][S::kChunk + 1];
  __shared__ float totals[kStepsWarps][kStepHeads];
  const StepBlock block(p, p.sequences, plan.chunks);
  const int lane = threadIdx.x % device::kWarp, warp = threadIdx.x / device::kWarp;
  const int64_t at = block.chunk.place * p.heads + block.first;
  for (int h = warp; h < block.count; h += kStepsWarps) {
    for (int t = lane; t < block.chunk.tokens; t += device::kWarp) {
      const float* from = plan.step_sums + (at + h) * S::kChunk + t;
      float sum = 0.0f;
      for (int64_t slice = 0; slice < plan.slices; ++slice) {
        sum += *from;
        from += plan.chunks.count * p.heads * S::kChunk;
      }
      sums[h][t] = sum;
    }
  }
  __syncthreads();
  float total = 0.0f;
#pragma unroll 4
  for (int t = warp; t < block.chunk.tokens; t += kStepsWarps) {
    if (lane >= block.count) continue;
    const int64_t row = block.chunk.sequence.row, token = block.chunk.token() + t;
    const int64_t head = block.first + lane;
    const float slope = step_of(p, row, token, head).slope;
    const float ddt = slope == 0.0f ? 0.0f : sums[lane][t] * slope;
    if (p.ddt) device::store_any(p.ddt, p.ddt.offset(row, token, head), ddt);
    total += ddt;
  }
  totals[warp][lane] = total;
  __syncthreads();
  if (warp != 0 || lane >= block.count) return;
  float sum = 0.0f;
  for (int i = 0; i < kStepsWarps; ++i) sum += totals[i][lane];
  plan.dbias[at + lane] = sum;
}

}  // namespace hax::ssd
