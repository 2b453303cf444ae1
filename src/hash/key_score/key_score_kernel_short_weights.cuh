// Weights of the MLP in shared memory, for up to 32 features of a 16-bit type.
#pragma once

#include "hash/key_score/key_score_kernel_narrow.cuh"

namespace hax::key_score {

// Weights of a layer as second operands, two pieces together.
struct SharedWeights {
  static constexpr int kOperands = kNarrowSteps * kNarrowBlocks;
  uint4 words[kOperands * kWarp];

  __device__ void operator()(uint32_t (&b)[2][2], int step, int block) const {
    const uint4 both = words[(step * kNarrowBlocks + block) * kWarp + threadIdx.x % kWarp];
    b[0][0] = both.x;
    b[0][1] = both.y;
    b[1][0] = both.z;
    b[1][1] = both.w;
  }
  // The pieces of the weight of an output and an input, in 16-bit elements.
  __device__ static int place(int output, int input) {
    const int lane = output % 8 * 4 + input % 8 / 2;
    const int operand = input / 16 * kNarrowBlocks + output / 8;
    return (operand * kWarp + lane) * 8 + input % 16 / 8 * 2 + input % 2;
  }
  // Becomes those of the layer on the way back, whose inputs are the other's outputs. By all threads.
  __device__ void transpose(const SharedWeights& layer) {
    const auto* from = reinterpret_cast<const uint16_t*>(layer.words);
#pragma unroll 2
    for (int i = threadIdx.x; i < kOperands * kWarp; i += kQueryThreads) {
      const int lane = i % kWarp, output = i / kWarp % kNarrowBlocks * 8 + lane / 4;
      const int input = i / kWarp / kNarrowBlocks * 16 + lane % 4 * 2;
      uint32_t word[4];
#pragma unroll
      for (int w = 0; w < 4; ++w) {  // both halves of a piece, then the next piece
        const int first = place(input + w % 2 * 8, output) + w / 2 * 4;
        word[w] = from[first] | static_cast<uint32_t>(from[first + 4 * 8]) << 16;
      }
      words[i] = {word[0], word[1], word[2], word[3]};
    }
  }
  // By all threads. weights(value, output, step, lane): the lane's four of a step.
  template <class F>
  __device__ void pack(F&& weights) {
#pragma unroll 2
    for (int i = threadIdx.x; i < kOperands * kWarp; i += kQueryThreads) {
      const int lane = i % kWarp, output = i / kWarp % kNarrowBlocks * 8 + lane / 4;
      float value[4] = {};
      weights(value, output, i / kWarp / kNarrowBlocks, lane);
      uint32_t low[2], high[2];
      device::split_bf16(low, value[0], value[1]);
      device::split_bf16(high, value[2], value[3]);
      words[i] = {low[0], high[0], low[1], high[1]};
    }
  }
};

struct ShortWeights {
  SharedWeights W1, W2;
  float b1[kNarrowWidth], b2[kNarrowWidth], W3[kNarrowWidth];
};

// Packs both layers. read(value, W, output, column): weights of an output, two neighbouring columns, of which both exist.
template <class Read>
__device__ void pack_layers(const Inputs& p, ShortWeights& shared, Read&& read) {
  const auto width = static_cast<int>(p.width()), features = static_cast<int>(p.features);
  const auto read_pair = [&](float* value, const Tensor& W, int output, int n, int count,
                             int before) {
    if (output >= width || n >= count) return;
    float pair[2];
    read(pair, W, output, before + n, n + 1 < count);
    value[0] = pair[0];
    if (n + 1 < count) value[1] = pair[1];
  };
  shared.W1.pack([&](float* value, int output, int step, int lane) {
    const bool key = step < 2;
    const int n = key ? fragment_feature(step, lane) : (step - 2) * 16 + lane % 4 * 2;
    const int before = key ? 0 : features;
    read_pair(value, p.W1, output, n, features, before);
    read_pair(value + 2, p.W1, output, n + (key ? 2 : 8), features, before);
    if (!key) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) value[i] *= p.k_scale;
  });
  shared.W2.pack([&](float* value, int output, int step, int lane) {
    const int n = step * 16 + lane % 4 * 2;
    read_pair(value, p.W2, output, n, width, 0);
    read_pair(value + 2, p.W2, output, n + 8, width, 0);
  });
}

template <class T>
__device__ void pack_short(const Inputs& p, bool weight_pairs, ShortWeights& shared) {
  if (weight_pairs && p.W1.type == Type::fp32) {
    pack_layers(p, shared, [](float(&pair)[2], const Tensor& W, int output, int column, bool) {
      const float2 two = *reinterpret_cast<const float2*>(
          static_cast<const float*>(W.data) + output * static_cast<int>(W.stride[0]) + column);
      pair[0] = two.x;
      pair[1] = two.y;
    });
  } else if (weight_pairs) {
    pack_layers(p, shared, [](float(&pair)[2], const Tensor& W, int output, int column, bool) {
      device::unpack(pair, *reinterpret_cast<const device::Packed<T, 2>*>(
                               static_cast<const T*>(W.data) +
                               output * static_cast<int>(W.stride[0]) + column));
    });
  } else {
    pack_layers(p, shared, [](float(&pair)[2], const Tensor& W, int output, int column, bool both) {
      pair[0] = device::load_any(W, W.offset(output, column));
      pair[1] = both ? device::load_any(W, W.offset(output, column + 1)) : 0.0f;
    });
  }
  const int i = threadIdx.x;
  if (i >= kNarrowWidth) return;
  const bool used = i < p.width();
  shared.b1[i] = used ? *p.b1.at<float>(i) : 0.0f;
  shared.b2[i] = used ? *p.b2.at<float>(i) : 0.0f;
  shared.W3[i] = used ? device::load_any(p.W3, i * p.W3.stride[1]) : 0.0f;
}

}  // namespace hax::key_score
