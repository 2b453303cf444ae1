// Loss and gradient of all pairs of picks, from scores and targets.
#pragma once

#include "device/math.cuh"
#include "hash/ranking_loss/ranking_loss_kernel_targets.cuh"

namespace hax::ranking_loss {

inline constexpr int kPairThreads = static_cast<int>(kPairRows);
inline constexpr int kTotalThreads = 512;

struct Entry {
  float score, target;
  bool used;
};

// Entry m of a row, read by forward from its plan and by backward from the caller's tensor.
struct RowEntries {
  const Inputs& p;
  const float* target;
  int64_t target_stride;
  int64_t s, head;
  Sequences::Range range;

  __device__ RowEntries(const Inputs& inputs, int64_t row, const float* targets, int64_t stride)
      : p(inputs),
        target(targets),
        target_stride(stride),
        s(row / p.heads),
        head(row % p.heads),
        range(p.sequences.range(s)) {}

  __device__ int64_t position(int64_t m) const {
    return m < p.picks ? position_of(p, s, range.length, head, m) : -1;
  }
  __device__ Entry operator[](int64_t m) const {
    const int64_t at = position(m);
    if (at < 0) return {0.0f, 0.0f, false};
    return {*p.score.at<float>(range.row, head, range.begin + at), target[m * target_stride], true};
  }
};

// Sum of f(score of a minus score of b, target of a, target of b) over all used b, for each
// thread's a. By all threads.
template <class F>
__device__ double sum_over_pairs(const RowEntries& entries, const Entry& a, F&& f) {
  __shared__ Entry others[kPairThreads];
  double sum = 0.0;
  for (int64_t first = 0; first < entries.p.picks; first += kPairThreads) {
    __syncthreads();
    others[threadIdx.x] = entries[first + threadIdx.x];
    __syncthreads();
    for (int i = 0; i < kPairThreads && a.used; ++i) {
      const Entry& b = others[i];
      if (b.used) sum += f(a.score - b.score, a.target, b.target);
    }
  }
  return sum;
}

// Adds up one value a thread in a fixed order; thread 0 receives the sum.
template <int Threads>
__device__ double sum_block(double value) {
  __shared__ double values[Threads];
  __syncthreads();
  values[threadIdx.x] = value;
  __syncthreads();
  for (int half = Threads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) values[threadIdx.x] += values[threadIdx.x + half];
    __syncthreads();
  }
  return values[0];
}

// A block for every row: how many of its entries are used.
__global__ void __launch_bounds__(kPairThreads)
    count_kernel(const __grid_constant__ Inputs p, int64_t* counts) {
  const RowEntries entries(p, blockIdx.x, nullptr, 0);
  int64_t count = 0;
  for (int64_t first = 0; first < p.picks; first += kPairThreads) {
    count += __syncthreads_count(entries.position(first + threadIdx.x) >= 0);
  }
  if (threadIdx.x == 0) counts[blockIdx.x] = count;
}

// A block for every (row, kPairThreads entries).
__global__ void __launch_bounds__(kPairThreads)
    loss_kernel(const __grid_constant__ ForwardParams p,
                const __grid_constant__ CudaForwardPlan plan) {
  const int64_t blocks = p.pair_blocks(), row = blockIdx.x / blocks;
  const RowEntries entries(p, row, plan.target + row * p.picks, 1);
  const Entry a = entries[blockIdx.x % blocks * kPairThreads + threadIdx.x];
  const double loss = sum_over_pairs(entries, a, [](float x, float wanted, float other) {
    const float target = 0.5f * ((wanted > other) + (wanted >= other));
    return device::softplus_accurate(x) - target * x;
  });
  const double total = sum_block<kPairThreads>(loss);
  if (threadIdx.x == 0) plan.losses[blockIdx.x] = total;
}

// One block: the mean over the rows that have picks.
__global__ void __launch_bounds__(kTotalThreads)
    total_kernel(const __grid_constant__ ForwardParams p,
                 const __grid_constant__ CudaForwardPlan plan) {
  const int64_t blocks = p.pair_blocks();
  double sum = 0.0, rows = 0.0;
  for (int64_t row = threadIdx.x; row < p.rows(); row += kTotalThreads) {
    const double count = static_cast<double>(plan.count[row]);
    if (count == 0.0) continue;
    double loss = 0.0;
    for (int64_t i = 0; i < blocks; ++i) loss += plan.losses[row * blocks + i];
    sum += loss / (count * count);
    rows += 1.0;
  }
  sum = sum_block<kTotalThreads>(sum);
  rows = sum_block<kTotalThreads>(rows);
  if (threadIdx.x == 0) *p.loss.at<float>(0) = rows > 0.0 ? static_cast<float>(sum / rows) : 0.0f;
}

// One block: how many rows have picks.
__global__ void __launch_bounds__(kTotalThreads)
    rows_kernel(const __grid_constant__ BackwardParams p,
                const __grid_constant__ CudaBackwardPlan plan) {
  double rows = 0.0;
  for (int64_t row = threadIdx.x; row < p.rows(); row += kTotalThreads) {
    rows += plan.count[row] > 0 ? 1.0 : 0.0;
  }
  rows = sum_block<kTotalThreads>(rows);
  if (threadIdx.x == 0) *plan.rows_used = static_cast<int64_t>(rows);
}

inline constexpr int kZeroThreads = 256;

// A thread for every score.
__global__ void __launch_bounds__(kZeroThreads)
    zero_kernel(const __grid_constant__ BackwardParams p) {
  const int64_t index = int64_t{blockIdx.x} * kZeroThreads + threadIdx.x;
  const int64_t length = p.sequences.length;
  if (index >= p.sequences.batch * p.heads * length) return;
  *p.dscore.at<float>(index / length / p.heads, index / length % p.heads, index % length) = 0.0f;
}

// A block for every (row, kPairThreads entries). The pairs (a, b) and (b, a) together give a's
// score the gradient sigmoid(x) - sigmoid(-x) - ([t_a > t_b] - [t_b > t_a]).
__global__ void __launch_bounds__(kPairThreads)
    gradient_kernel(const __grid_constant__ BackwardParams p,
                    const __grid_constant__ CudaBackwardPlan plan) {
  const int64_t blocks = p.pair_blocks(), row = blockIdx.x / blocks;
  const int64_t m = blockIdx.x % blocks * kPairThreads + threadIdx.x;
  const RowEntries entries(p, row, p.target.at<float>(row / p.heads, row % p.heads),
                           p.target.stride[2]);
  const Entry a = entries[m];
  const double gradient = sum_over_pairs(entries, a, [](float x, float wanted, float other) {
    const float decay = expf(-fabsf(x));
    const float slope = copysignf((1.0f - decay) / (1.0f + decay), x);
    return slope - ((wanted > other) - (wanted < other));
  });
  if (!a.used) return;
  const double count = static_cast<double>(plan.count[row]);
  const double weight =
      *p.dloss.at<float>(0) / (static_cast<double>(*plan.rows_used) * count * count);
  *p.dscore.at<float>(entries.range.row, entries.head, entries.range.begin + entries.position(m)) =
      static_cast<float>(weight * gradient);
}

}  // namespace hax::ranking_loss
