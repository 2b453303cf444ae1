// The loss, what a batch scores, and the optimiser.
#include <cmath>

#include "model/cuda_rows.cuh"

namespace joint_recall {
namespace {

using namespace cuda_rows;

constexpr int kScoreThreads = 1024;

__device__ float warp_sum(float value) { return Lanes{kWarp, 0}.sum(value); }

struct CrossEntropy {
  const int32_t* label;
  const float* scale;
  ConstMatrix logits;
  float* loss;
  int32_t* prediction;
  AnyCells d_logits;
  __device__ void operator()(int64_t r, int lane) const {
    const float* row = logits.data + r * logits.stride;
    float largest = -INFINITY;
    int64_t best = logits.columns;
    for (int64_t c = lane; c < logits.columns; c += kWarp) {
      if (row[c] > largest) largest = row[c], best = c;
    }
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      const float other = __shfl_xor_sync(0xffffffffu, largest, distance);
      const int64_t where = __shfl_xor_sync(0xffffffffu, best, distance);
      if (other > largest || (other == largest && where < best)) largest = other, best = where;
    }
    float sum = 0.0f;
    for (int64_t c = lane; c < logits.columns; c += kWarp) sum += expf(row[c] - largest);
    const float log_sum = largest + logf(warp_sum(sum));
    const bool asked = label[r] >= 0;
    if (lane == 0) {
      loss[r] = asked ? log_sum - row[label[r]] : 0.0f;
      prediction[r] = static_cast<int32_t>(best < logits.columns ? best : 0);
    }
    if (!d_logits.present()) return;
    __syncwarp();  // d_logits may be logits
    const float factor = asked ? *scale : 0.0f;
    for (int c = lane * kOctet; c < logits.columns; c += kWarp * kOctet) {
      Octet d = AnyCells::load_vector(row, c, d_logits.columns);
      for (int i = 0; i < kOctet; ++i) {
        d.at[i] = factor * (expf(d.at[i] - log_sum) - (c + i == label[r] ? 1.0f : 0.0f));
      }
      d_logits.store(r, c, d);
    }
  }
};

template <class F>
__global__ void warps_kernel(int64_t rows, F f) {
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (row < rows) f(row, static_cast<int>(threadIdx.x % kWarp));
}

__device__ double block_sum(double value) {
  __shared__ double sums[kScoreThreads];
  sums[threadIdx.x] = value;
  __syncthreads();
  for (int half = kScoreThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  const double sum = sums[0];
  __syncthreads();
  return sum;
}

// One block: a batch asks a few thousand tokens.
__global__ void score_kernel(const float* loss, const int32_t* prediction, const int32_t* target,
                             const int32_t* offset, int64_t items, BatchScores* scores) {
  const int lane = threadIdx.x % kWarp;
  double losses = 0.0, shares = 0.0, asking = 0.0;
  for (int32_t j = threadIdx.x; j < offset[items]; j += kScoreThreads) losses += loss[j];
  for (int64_t item = threadIdx.x / kWarp; item < items; item += kScoreThreads / kWarp) {
    const int32_t begin = offset[item], end = offset[item + 1];
    int right = 0;
    for (int32_t j = begin + lane; j < end; j += kWarp) right += prediction[j] == target[j];
    right = __reduce_add_sync(0xffffffffu, right);
    if (lane != 0 || begin == end) continue;
    shares += static_cast<double>(right) / (end - begin);
    asking += 1.0;
  }
  losses = block_sum(losses);
  shares = block_sum(shares);
  asking = block_sum(asking);
  if (threadIdx.x != 0) return;
  scores->loss = offset[items] > 0 ? losses / offset[items] : 0.0;
  scores->accuracy = asking > 0.0 ? shares / asking : 0.0;
  scores->items = static_cast<int64_t>(asking);
}

struct Adamw {
  const AdamwNumbers* numbers;
  const float* gradient;
  float *value, *first, *second;
  uint16_t* rounded;
  __device__ void operator()(int64_t i) const {
    const AdamwNumbers n = *numbers;
    const float g = gradient[i];
    const float m = n.beta1 * first[i] + n.one_minus_beta1 * g;
    const float v = n.beta2 * second[i] + n.one_minus_beta2 * g * g;
    first[i] = m;
    second[i] = v;
    const float updated =
        value[i] * n.decay - n.step_size * m / (sqrtf(v) / n.root_correction + n.eps);
    value[i] = updated;
    if (rounded != nullptr) rounded[i] = __bfloat16_as_ushort(__float2bfloat16_rn(updated));
  }
};

}  // namespace

void CudaBackend::cross_entropy(const int32_t* label, const float* scale, ConstMatrix logits,
                                float* loss, int32_t* prediction, Tokens d_logits) {
  const int64_t blocks = blocks_for(logits.rows, kThreads / kWarp);
  if (blocks == 0) return;
  warps_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, here()>>>(
      logits.rows, CrossEntropy{label, scale, logits, loss, prediction, d_logits});
  check_launch("cross entropy");
}

void CudaBackend::score_batch(const float* loss, const int32_t* prediction, const int32_t* target,
                              const int32_t* offset, int64_t items, BatchScores* scores) {
  score_kernel<<<1, kScoreThreads, 0, here()>>>(loss, prediction, target, offset, items, scores);
  check_launch("scoring a batch");
}

void CudaBackend::adamw(const AdamwNumbers* numbers, int64_t count, const float* gradient,
                        float* value, float* first_moment, float* second_moment,
                        uint16_t* rounded) {
  for_elements(here(), count,
               Adamw{numbers, gradient, value, first_moment, second_moment, rounded});
}

}  // namespace joint_recall
