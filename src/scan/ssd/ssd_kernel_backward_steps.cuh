// dt and the decays of ssd's backward, once for all kernels, and the way back from their gradients. A block serves
// neighbouring heads of a chunk. Tensors have tokens of heads, the workspace heads of tokens; they are turned round in
// shared memory.
#pragma once

#include <cfloat>

#include "scan/ssd/ssd_kernel_backward.cuh"

namespace hax::ssd {

inline constexpr int kStepsThreads = 256;
inline constexpr int kStepsWarps = kStepsThreads / device::kWarp;
inline constexpr int kStepHeads = device::kWarp;

// dt with its bias of tokens first, first + kStepsWarps, ... of a chunk.
template <class S>
struct ChunkSteps {
  static constexpr int kCount = S::kTokens / kStepsWarps;
  float values[kCount];

  __device__ ChunkSteps(const BackwardParams& p, const ChunkAt& chunk, int first, int64_t head,
                        bool used) {
    const int64_t offset = p.dt.offset(chunk.sequence.row, chunk.token() + first, head),
                  step = kStepsWarps * p.dt.stride[1];
    const float bias = used && p.dt_bias ? *p.dt_bias.at<float>(head) : 0.0f;
    const auto load = [&](const auto* from) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const bool there = used && first + i * kStepsWarps < chunk.tokens;
        values[i] = there ? device::to_float(from[i * step]) + bias : 0.0f;
      }
    };
    if (p.dt.type == Type::fp32) {
      load(p.dt.at<float>() + offset);
    } else {
      load(p.dt.at<typename S::T>() + offset);
    }
  }
};

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
  constexpr int K = S::kTokens / device::kWarp;
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
  float* const steps = plan.steps + at * 3 * S::kTokens + lane * K;
  device::store_packed<float, K>(steps, dt);
  device::store_packed<float, K>(steps + S::kTokens, high);
  device::store_packed<float, K>(steps + 2 * S::kTokens, low);
  T* const weights = static_cast<T*>(plan.weights) + at * S::kTokens + lane * K;
  device::store_packed<T, K>(weights, to_end);
  device::store_packed<T, K>(weights + plan.chunks.count * p.heads * S::kTokens, from_start);
  if (lane == (start == 0 ? 0 : (start - 1) / K)) {
    const float D = p.D.ndim == 1 ? *p.D.at<float>(head) : 0.0f;
    const float row[] = {fading, whole, *p.A.at<float>(head), D};
    device::store_packed<float, 4>(plan.decays + at * 4, row);
  }
}

template <class S>
__global__ void __launch_bounds__(kStepsThreads)
    backward_steps_kernel(const __grid_constant__ BackwardParams p,
                          const __grid_constant__ CudaBackwardPlan plan) {
  __shared__ float dt[kStepHeads][S::kTokens + 1];
  const StepBlock block(p, p.sequences, plan.chunks);
  if (block.chunk.tokens == 0) return;
  const int lane = threadIdx.x % device::kWarp, warp = threadIdx.x / device::kWarp;
  const ChunkSteps<S> raw(p, block.chunk, warp, block.first + lane, lane < block.count);
#pragma unroll
  for (int i = 0; i < ChunkSteps<S>::kCount; ++i) {
    const int t = warp + i * kStepsWarps;
    const float step = device::softplus_accurate(raw.values[i]);
    const float limited = step < p.dt_min ? p.dt_min : step > p.dt_max ? p.dt_max : step;
    dt[lane][t] = t < block.chunk.tokens && lane < block.count ? limited : 0.0f;
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
  __shared__ float sums[kStepHeads][S::kTokens + 1];
  __shared__ float totals[kStepsWarps][kStepHeads];
  const StepBlock block(p, p.sequences, plan.chunks);
  const int lane = threadIdx.x % device::kWarp, warp = threadIdx.x / device::kWarp;
  const int64_t at = block.chunk.place * p.heads + block.first;
  const ChunkSteps<S> raw(p, block.chunk, warp, block.first + lane, lane < block.count);
  const int64_t part_size = plan.chunks.count * p.heads * S::kTokens;
  for (int h = warp; h < block.count; h += kStepsWarps) {
#pragma unroll
    for (int t = lane; t < S::kTokens; t += device::kWarp) {
      const float* from = plan.step_sums + (at + h) * S::kTokens + t;
      float sum = 0.0f;
      for (int64_t part = 0; part < plan.parts * plan.slices; ++part, from += part_size)
        sum += *from;
      sums[h][t] = sum;
    }
  }
  __syncthreads();
  const bool limits = p.dt_min > 0.0f || p.dt_max <= FLT_MAX;
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < ChunkSteps<S>::kCount; ++i) {
    const int t = warp + i * kStepsWarps;
    if (t >= block.chunk.tokens || lane >= block.count) continue;
    float slope = device::sigmoid(raw.values[i]);
    if (limits) {
      const float step = device::softplus_accurate(raw.values[i]);
      if (step < p.dt_min || step > p.dt_max) slope = 0.0f;
    }
    const float ddt = slope == 0.0f ? 0.0f : sums[lane][t] * slope;
    if (p.ddt) {
      const int64_t offset =
          p.ddt.offset(block.chunk.sequence.row, block.chunk.token() + t, block.first + lane);
      device::store_any(p.ddt, offset, ddt);
    }
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
