// A batch of tokens through the MLP and back, in fp32.
#pragma once

#include "hash/key_score/key_score_kernel_query.cuh"

namespace hax::key_score {

inline constexpr int kQuad = 4;  // tokens or rows that a thread computes side by side

// Sizes that follow from the width 2N.
struct BackwardShape {
  int width, padded;  // padded: whole quads
  int batch;          // tokens of a step
  int row;            // floats of a row of activations
  int query_tokens;   // whose q' are read at a time

  HAX_EVERYWHERE BackwardShape(const Inputs& p)
      : width(static_cast<int>(p.width())),
        padded(static_cast<int>(round_up(p.width(), kQuad))),
        batch(width > 256 ? 8 : 16),
        row(padded + kQuad),
        query_tokens(p.features > 64 ? 16 : 64) {}
  HAX_EVERYWHERE int buffer() const { return batch * row; }
  HAX_EVERYWHERE size_t shared_bytes() const {
    return sizeof(float) * (4 * buffer() + query_tokens * (width / 2));
  }
  HAX_EVERYWHERE int64_t matrix() const { return int64_t{padded} * width; }  // of weights
  // A part's gradients: dW1, dW2, then db1, db2, dW3, db3 with a row each.
  HAX_EVERYWHERE int64_t gradient_rows() const { return 2 * int64_t{width} + 4; }
  HAX_EVERYWHERE int64_t gradient_floats() const { return gradient_rows() * width; }
};

// Blocks for every (slot of a tile, head), and after them blocks that copy W1 and W2 to (inputs,
// outputs) and W2 to (outputs, inputs), with rows of zeros up to whole quads.
template <class T>
__global__ void __launch_bounds__(kQueryThreads)
    prepare_backward_kernel(const __grid_constant__ Inputs p,
                            const __grid_constant__ CudaBackwardPlan plan) {
  const int64_t tiles = p.cuda_tiles().slots() * p.heads;
  if (blockIdx.x < tiles) return tile_sums<T>(p, plan.query, blockIdx.x);
  const BackwardShape shape(p);
  const int64_t index = (blockIdx.x - tiles) * kQueryThreads + threadIdx.x;
  if (index >= 3 * shape.matrix()) return;
  const int64_t which = index / shape.matrix();
  const int64_t row = index % shape.matrix() / shape.width, column = index % shape.width;
  const Tensor& W = which == 0 ? p.W1 : p.W2;
  float value = 0.0f;
  if (row < shape.width) {
    value = device::load_any(W, which == 2 ? W.offset(row, column) : W.offset(column, row));
  }
  plan.weights[index] = value;
}

// finish(token, column, sum) with in W for all tokens of a batch.
template <class Finish>
__device__ void multiply(const BackwardShape& shape, const float* in, const float* W,
                         Finish&& finish) {
  for (int item = threadIdx.x; item < shape.width * shape.batch / kQuad; item += kQueryThreads) {
    const int column = item % shape.width, token = item / shape.width * kQuad;
    float sum[kQuad] = {};
#pragma unroll 2
    for (int k = 0; k < shape.padded; k += 4) {
      float weight[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) weight[i] = __ldg(W + (k + i) * shape.width + column);
#pragma unroll
      for (int t = 0; t < kQuad; ++t) {
        const float4 value = *reinterpret_cast<const float4*>(in + (token + t) * shape.row + k);
        sum[t] = fmaf(value.x, weight[0], sum[t]);
        sum[t] = fmaf(value.y, weight[1], sum[t]);
        sum[t] = fmaf(value.z, weight[2], sum[t]);
        sum[t] = fmaf(value.w, weight[3], sum[t]);
      }
    }
#pragma unroll
    for (int t = 0; t < kQuad; ++t) finish(token + t, column, sum[t]);
  }
}

// total[j][i] += sum over the batch of dsum[t][j] in[t][i].
__device__ inline void add_weight_gradient(const BackwardShape& shape, const float* dsum,
                                           const float* in, float* total) {
  for (int item = threadIdx.x; item < shape.width * shape.padded / kQuad; item += kQueryThreads) {
    const int i = item % shape.width, j = item / shape.width * kQuad;
    float sum[kQuad] = {};
    for (int t = 0; t < shape.batch; ++t) {
      const float4 left = *reinterpret_cast<const float4*>(dsum + t * shape.row + j);
      const float right = in[t * shape.row + i];
      sum[0] = fmaf(left.x, right, sum[0]);
      sum[1] = fmaf(left.y, right, sum[1]);
      sum[2] = fmaf(left.z, right, sum[2]);
      sum[3] = fmaf(left.w, right, sum[3]);
    }
#pragma unroll
    for (int r = 0; r < kQuad; ++r) {
      if (j + r < shape.width) total[(j + r) * shape.width + i] += sum[r];
    }
  }
}

__device__ inline void add_bias_gradient(const BackwardShape& shape, const float* dsum,
                                         float* total) {
  for (int j = threadIdx.x; j < shape.width; j += kQueryThreads) {
    float sum = 0.0f;
    for (int t = 0; t < shape.batch; ++t) sum += dsum[t * shape.row + j];
    total[j] += sum;
  }
}

// A batch of tokens, zeros where there are none.
struct Batch {
  const BackwardParams& p;
  const BackwardShape& shape;
  const float *W1, *W2, *W2_backward;
  float *dW1, *dW2, *db1, *db2, *dW3, *db3;  // of this part
  float *input, *hidden1, *hidden2,
      *dsum1;  // hidden2 becomes the gradient of the second layer's sums
  float* dscore;

  __device__ Batch(const BackwardParams& params, const BackwardShape& s,
                   const CudaBackwardPlan& plan, float* memory, float* gradients)
      : p(params),
        shape(s),
        W1(plan.weights),
        W2(W1 + s.matrix()),
        W2_backward(W2 + s.matrix()),
        dW1(plan.gradients + blockIdx.x * s.gradient_floats()),
        dW2(dW1 + s.width * s.width),
        db1(dW2 + s.width * s.width),
        db2(db1 + s.width),
        dW3(db2 + s.width),
        db3(dW3 + s.width),
        input(memory),
        hidden1(input + s.buffer()),
        hidden2(hidden1 + s.buffer()),
        dsum1(hidden2 + s.buffer()),
        dscore(gradients) {
    for (int64_t i = threadIdx.x; i < s.gradient_floats(); i += kQueryThreads) dW1[i] = 0.0f;
    for (int i = threadIdx.x; i < 4 * s.buffer(); i += kQueryThreads) memory[i] = 0.0f;
    clear();
  }

  __device__ void clear() {
    for (int i = threadIdx.x; i < shape.buffer(); i += kQueryThreads) input[i] = 0.0f;
    if (static_cast<int>(threadIdx.x) < shape.batch) dscore[threadIdx.x] = 0.0f;
    __syncthreads();
  }

  __device__ float bias(const Tensor& b, int i) const { return *b.at<float>(i); }

  __device__ void flush() {
    __syncthreads();
    multiply(shape, input, W1, [&](int token, int column, float sum) {
      hidden1[token * shape.row + column] = relu(sum + bias(p.b1, column));
    });
    __syncthreads();
    multiply(shape, hidden1, W2, [&](int token, int column, float sum) {
      hidden2[token * shape.row + column] = relu(sum + bias(p.b2, column));
    });
    __syncthreads();
    for (int j = threadIdx.x; j < shape.width; j += kQueryThreads) {
      const float weight = device::load_any(p.W3, j * p.W3.stride[1]);
      float sum = 0.0f;
      for (int t = 0; t < shape.batch; ++t) {
        float& hidden = hidden2[t * shape.row + j];
        sum = fmaf(dscore[t], hidden, sum);
        hidden = hidden <= 0.0f ? 0.0f : dscore[t] * weight;
      }
      dW3[j] += sum;
    }
    if (threadIdx.x == 0) {
      float sum = 0.0f;
      for (int t = 0; t < shape.batch; ++t) sum += dscore[t];
      *db3 += sum;
    }
    __syncthreads();
    add_weight_gradient(shape, hidden2, hidden1, dW2);
    add_bias_gradient(shape, hidden2, db2);
    multiply(shape, hidden2, W2_backward, [&](int token, int column, float sum) {
      const int at = token * shape.row + column;
      dsum1[at] = hidden1[at] <= 0.0f ? 0.0f : sum;
    });
    __syncthreads();
    add_weight_gradient(shape, dsum1, input, dW1);
    add_bias_gradient(shape, dsum1, db1);
    __syncthreads();
    clear();
  }
};

}  // namespace hax::key_score
