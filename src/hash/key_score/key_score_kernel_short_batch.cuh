// A batch of 16 tokens through the MLP and back on tensor cores, a warp for 8 of each layer's outputs.
#pragma once

#include "hash/key_score/key_score_kernel_short_inputs.cuh"
#include "hash/key_score/key_score_kernel_short_weights.cuh"

namespace hax::key_score {

inline constexpr int kBatch = 16;                   // tokens
inline constexpr int kPlaneRow = kNarrowWidth + 8;  // elements; an odd number of 16 bytes
inline constexpr int kPlane = kBatch * kPlaneRow;
static_assert(kNarrowBlocks == kForwardWarps);

// Activations of a batch, or their gradients: a row a token, in two pieces of bf16.
struct BatchPlanes {
  alignas(16) uint16_t pieces[2][kPlane];

  // Neighbouring columns, the first of them even.
  __device__ void store(int token, int column, float a, float b) {
    uint32_t words[2];
    device::split_bf16(words, a, b);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      *reinterpret_cast<uint32_t*>(pieces[i] + token * kPlaneRow + column) = words[i];
    }
  }
  // 16 columns as first operand: rows are tokens.
  __device__ void rows(uint32_t (&a)[2][4], int step, int lane) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      device::load_matrix_x4(a[i], pieces[i] + lane % 16 * kPlaneRow + step * 16 + lane / 16 * 8);
    }
  }
  // 16 columns as first operand: columns are tokens.
  __device__ void columns(uint32_t (&a)[2][4], int step, int lane) const {
    const int token = lane / 16 * 8 + lane % 8;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      device::load_matrix_x4_transposed(
          a[i], pieces[i] + token * kPlaneRow + step * 16 + lane / 8 % 2 * 8);
    }
  }
  // 8 columns as second operand.
  __device__ void second(uint32_t (&b)[2][2], int block, int lane) const {
    uint32_t words[4];
    device::load_matrix_x4_transposed(words, pieces[lane / 16] + lane % 16 * kPlaneRow + block * 8);
    b[0][0] = words[0];
    b[0][1] = words[1];
    b[1][0] = words[2];
    b[1][1] = words[3];
  }
};

template <class T>
struct ShortBackwardMemory : ShortWeights, ShortQueries<T> {
  SharedWeights W2_backward;  // inputs of W2 are its outputs
  BatchPlanes input, hidden, dsum1, dsum2;
  float dscore[kBatch];
  uint32_t wanted[2][kCudaTileTokens / kWarp];  // tokens with a gradient, of every other tile
};

// Features of keys lie in the input's columns as packed W1 meets them; features 8 c + 4 s + 2 h + e in 16 s + 8 h + 2 c + e.
__device__ inline int key_column(int c, int s, int h) { return 16 * s + 8 * h + 2 * c; }
__device__ inline int key_feature(int column) {
  return column % 8 / 2 * 8 + column / 16 * 4 + column / 8 % 2 * 2 + column % 2;
}

// What a warp adds up: gradients of 8 columns of W1 and W2, and of 8 outputs' biases and of W3.
struct ShortGradients {
  float dW1[kNarrowSteps][4] = {}, dW2[kNarrowSteps][4] = {};
  float db1[2] = {}, db2[2] = {}, dW3[2] = {}, db3 = 0.0f;
};

// d += a b, sums of different pieces side by side.
__device__ inline void add_pieces(float (&d)[4], const uint32_t (&a)[2][4],
                                  const uint32_t (&b)[2][2]) {
  float low[4] = {};
  device::mma_pieces(d, low, a, b);
#pragma unroll
  for (int i = 0; i < 4; ++i) d[i] += low[i];
}

// Runs the first `count` tokens of the batch through the MLP and back. By all threads.
template <class T>
__device__ void run_batch(ShortBackwardMemory<T>& shared, int count, ShortGradients& total) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int row = lane / 4, column = warp * 8 + lane % 4 * 2;
  const bool alive[2] = {row < count, row + 8 < count};
  const auto layer = [&](float(&sums)[4], const BatchPlanes& in, const SharedWeights& weights) {
    float low[4] = {};
#pragma unroll
    for (int step = 0; step < kNarrowSteps; ++step) {
      uint32_t a[2][4], b[2][2];
      in.rows(a, step, lane);
      weights(b, step, warp);
      device::mma_pieces(sums, low, a, b);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[e] += low[e];
  };
  const auto store = [&](BatchPlanes& to, const float(&values)[4]) {
    to.store(row, column, values[0], values[1]);
    to.store(row + 8, column, values[2], values[3]);
  };
  __syncthreads();
  float hidden[4] = {shared.b1[column], shared.b1[column + 1], shared.b1[column],
                     shared.b1[column + 1]};
  layer(hidden, shared.input, shared.W1);
#pragma unroll
  for (int e = 0; e < 4; ++e) hidden[e] = alive[e / 2] ? relu(hidden[e]) : 0.0f;
  store(shared.hidden, hidden);
  __syncthreads();
  float second[4] = {shared.b2[column], shared.b2[column + 1], shared.b2[column],
                     shared.b2[column + 1]};
  layer(second, shared.hidden, shared.W2);
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const float dscore = alive[e / 2] ? shared.dscore[row + e / 2 * 8] : 0.0f;
    const float output = alive[e / 2] ? relu(second[e]) : 0.0f;
    total.dW3[e % 2] = fmaf(dscore, output, total.dW3[e % 2]);
    second[e] = output <= 0.0f ? 0.0f : dscore * shared.W3[column + e % 2];
    total.db2[e % 2] += second[e];
  }
  total.db3 += device::warp_sum(lane < count ? shared.dscore[lane % kBatch] : 0.0f);
  store(shared.dsum2, second);
  __syncthreads();
  float first[4] = {};
  layer(first, shared.dsum2, shared.W2_backward);
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if (hidden[e] <= 0.0f) first[e] = 0.0f;
    total.db1[e % 2] += first[e];
  }
  store(shared.dsum1, first);
  const auto add = [&](float(&sums)[kNarrowSteps][4], const BatchPlanes& left,
                       const BatchPlanes& right) {
    uint32_t b[2][2];
    right.second(b, warp, lane);
#pragma unroll
    for (int step = 0; step < kNarrowSteps; ++step) {
      uint32_t a[2][4];
      left.columns(a, step, lane);
      add_pieces(sums[step], a, b);
    }
  };
  add(total.dW2, shared.dsum2, shared.hidden);
  __syncthreads();
  add(total.dW1, shared.dsum1, shared.input);
  __syncthreads();
}

}  // namespace hax::key_score
