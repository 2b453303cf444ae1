// Norms, gates, the loss and the optimiser.
#include <cmath>

#include "model/cuda_rows.cuh"

namespace joint_recall {
namespace {

using namespace cuda_rows;

__device__ float inverse_rms(const float* x, int64_t columns, float eps, int lane) {
  float squares = 0.0f;
  for (int64_t c = lane; c < columns; c += kWarp) squares += x[c] * x[c];
  return rsqrtf(warp_sum(squares) / static_cast<float>(columns) + eps);
}

struct Rmsnorm {
  ConstMatrix x;
  const float* weight;
  float eps;
  Matrix y;
  __device__ void operator()(int64_t r, int lane) const {
    const float* in = x.data + r * x.stride;
    const float scale = inverse_rms(in, x.columns, eps, lane);
    float* out = y.data + r * y.stride;
    for (int64_t c = lane; c < x.columns; c += kWarp) out[c] = in[c] * scale * weight[c];
  }
};

struct RmsnormScale {
  ConstMatrix x;
  float eps;
  float* scale;
  __device__ void operator()(int64_t r, int lane) const {
    const float value = inverse_rms(x.data + r * x.stride, x.columns, eps, lane);
    if (lane == 0) scale[r] = value;
  }
};

struct RmsnormWeightTerm {
  ConstMatrix x, dy;
  const float* scale;
  __device__ float operator()(int64_t r, int64_t c) const {
    return dy.data[r * dy.stride + c] * x.data[r * x.stride + c] * scale[r];
  }
};

struct RmsnormBackward {
  ConstMatrix x, dy;
  const float *weight, *scale;
  bool accumulate;
  Matrix dx;
  __device__ void operator()(int64_t r, int lane) const {
    const float* in = x.data + r * x.stride;
    const float* gradient = dy.data + r * dy.stride;
    float* out = dx.data + r * dx.stride;
    float product = 0.0f;
    for (int64_t c = lane; c < x.columns; c += kWarp) product += gradient[c] * in[c] * weight[c];
    const float s = scale[r];
    const float along = warp_sum(product) * s * s / static_cast<float>(x.columns);
    for (int64_t c = lane; c < x.columns; c += kWarp) {
      const float value = s * (gradient[c] * weight[c] - in[c] * along);
      out[c] = accumulate ? out[c] + value : value;
    }
  }
};

struct GatedSum {
  ConstMatrix y, o;
  const float* E;
  ConstMatrix gate;
  Matrix out;
  __device__ void operator()(int64_t r, int64_t c) const {
    const float g = gate.data[r * gate.stride + c];
    float sum = y.data[r * y.stride + c];
    if (o.data != nullptr) sum += E[c] * o.data[r * o.stride + c];
    out.data[r * out.stride + c] = sum * (g * sigmoid(g));
  }
};

struct GatedSumBackward {
  ConstMatrix y, o;
  const float* E;
  ConstMatrix gate, d_out;
  Matrix dy, d_o, d_gate;
  __device__ void operator()(int64_t r, int64_t c) const {
    const float g = gate.data[r * gate.stride + c], d = d_out.data[r * d_out.stride + c];
    const float s = sigmoid(g), through = d * g * s;
    float sum = y.data[r * y.stride + c];
    if (o.data != nullptr) {
      sum += E[c] * o.data[r * o.stride + c];
      d_o.data[r * d_o.stride + c] = through * E[c];
    }
    d_gate.data[r * d_gate.stride + c] = d * sum * (s * (1.0f + g * (1.0f - s)));
    dy.data[r * dy.stride + c] = through;
  }
};

struct GatedSumWeightTerm {
  ConstMatrix o, gate, d_out;
  __device__ float operator()(int64_t r, int64_t c) const {
    const float g = gate.data[r * gate.stride + c];
    return d_out.data[r * d_out.stride + c] * g * sigmoid(g) * o.data[r * o.stride + c];
  }
};

struct CrossEntropy {
  const int32_t* label;
  const float* scale;
  Matrix logits;
  float* loss;
  int32_t* prediction;
  __device__ void operator()(int64_t r, int lane) const {
    float* row = logits.data + r * logits.stride;
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
    if (scale == nullptr) return;
    __syncwarp();
    const float factor = asked ? *scale : 0.0f;
    for (int64_t c = lane; c < logits.columns; c += kWarp) {
      row[c] = factor * (expf(row[c] - log_sum) - (c == label[r] ? 1.0f : 0.0f));
    }
  }
};

__device__ double block_sum(double value) {
  __shared__ double sums[kThreads];
  sums[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
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
  for (int32_t j = threadIdx.x; j < offset[items]; j += kThreads) losses += loss[j];
  for (int64_t item = threadIdx.x / kWarp; item < items; item += kThreads / kWarp) {
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
  float decay, beta1, beta2, one_minus_beta1, one_minus_beta2, step_size, root_correction, eps;
  const float* gradient;
  float *value, *first, *second;
  __device__ void operator()(int64_t, int64_t i) const {
    const float g = gradient[i];
    const float m = beta1 * first[i] + one_minus_beta1 * g;
    const float v = beta2 * second[i] + one_minus_beta2 * g * g;
    first[i] = m;
    second[i] = v;
    value[i] = value[i] * decay - step_size * m / (sqrtf(v) / root_correction + eps);
  }
};

}  // namespace

void CudaBackend::rmsnorm(ConstMatrix x, const float* weight, float eps, Matrix y) {
  for_rows(stream_, x.rows, Rmsnorm{x, weight, eps, y});
}

void CudaBackend::rmsnorm_backward(ConstMatrix x, const float* weight, float eps, ConstMatrix dy,
                                   bool accumulate, Matrix dx, float* d_weight) {
  const int64_t chunks = partial_sums_of(x.rows);
  float* scale = partial_sums(x.rows + chunks * x.columns);
  float* partial = scale + x.rows;
  for_rows(stream_, x.rows, RmsnormScale{x, eps, scale});
  // Before dx, which may lie where dy does.
  column_sums(stream_, x.rows, x.columns, RmsnormWeightTerm{x, dy, scale}, partial);
  for_elements(stream_, 1, x.columns, AddPartialSums{partial, chunks, x.columns, d_weight});
  for_rows(stream_, x.rows, RmsnormBackward{x, dy, weight, scale, accumulate, dx});
}

void CudaBackend::gated_sum(ConstMatrix y, ConstMatrix o, const float* E, ConstMatrix gate,
                            Matrix out) {
  for_elements(stream_, y.rows, y.columns, GatedSum{y, o, E, gate, out});
}

void CudaBackend::gated_sum_backward(ConstMatrix y, ConstMatrix o, const float* E, ConstMatrix gate,
                                     ConstMatrix d_out, Matrix dy, Matrix d_o, Matrix d_gate,
                                     float* d_E) {
  if (o.present()) {
    const int64_t chunks = partial_sums_of(y.rows);
    float* partial = partial_sums(chunks * y.columns);
    // Before dy, which may lie where d_out does.
    column_sums(stream_, y.rows, y.columns, GatedSumWeightTerm{o, gate, d_out}, partial);
    for_elements(stream_, 1, y.columns, AddPartialSums{partial, chunks, y.columns, d_E});
  }
  for_elements(stream_, y.rows, y.columns, GatedSumBackward{y, o, E, gate, d_out, dy, d_o, d_gate});
}

void CudaBackend::cross_entropy(const int32_t* label, const float* scale, Matrix logits,
                                float* loss, int32_t* prediction) {
  for_rows(stream_, logits.rows, CrossEntropy{label, scale, logits, loss, prediction});
}

void CudaBackend::score_batch(const float* loss, const int32_t* prediction, const int32_t* target,
                              const int32_t* offset, int64_t items, BatchScores* scores) {
  score_kernel<<<1, kThreads, 0, stream_>>>(loss, prediction, target, offset, items, scores);
  check_launch("scoring a batch");
}

void CudaBackend::adamw(const AdamwArgs& args, int64_t count, const float* gradient, float* value,
                        float* first_moment, float* second_moment) {
  const double correction1 = 1.0 - std::pow(args.beta1, static_cast<double>(args.step));
  const double correction2 = 1.0 - std::pow(args.beta2, static_cast<double>(args.step));
  for_elements(
      stream_, 1, count,
      Adamw{static_cast<float>(1.0 - args.lr * args.weight_decay), static_cast<float>(args.beta1),
            static_cast<float>(args.beta2), static_cast<float>(1.0 - args.beta1),
            static_cast<float>(1.0 - args.beta2), static_cast<float>(args.lr / correction1),
            static_cast<float>(std::sqrt(correction2)), static_cast<float>(args.eps), gradient,
            value, first_moment, second_moment});
}

}  // namespace joint_recall
