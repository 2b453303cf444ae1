// The MLP on tensor cores: activations lie in shared memory in pieces of bf16, weights in memory as
// the products' operands.
#pragma once

#include "device/split_bf16.cuh"
#include "device/warp.cuh"
#include "hash/key_score/key_score_kernel_query.cuh"

namespace hax::key_score {

using device::kWarp;

inline constexpr int kForwardWarps = kQueryThreads / kWarp;
inline constexpr int kColumns = 4;  // blocks of 8 outputs that a warp computes at a time

// Pieces that keep what matters of fp32 activations and of 16-bit ones (2^-16).
template <class T>
inline constexpr int kPieces = type_of<T> == Type::fp32 ? 3 : 2;
inline int pieces_of(Type type) { return type == Type::fp32 ? 3 : 2; }

// Sizes that follow from the width 2N.
struct MlpShape {
  int steps;   // of 16 inputs
  int blocks;  // of 8 outputs
  int groups;  // of kColumns blocks
  int tokens;  // that go through the MLP together
  int row;     // elements of a row of activations; an odd number of 16 bytes

  HAX_EVERYWHERE MlpShape(int64_t width) {
    steps = static_cast<int>(ceil_div(width, 16));
    blocks = 2 * steps;
    groups = static_cast<int>(ceil_div(blocks, kColumns));
    tokens = width <= 64 ? 64 : width <= 128 ? 32 : 16;
    row = 16 * steps + 8;
  }
  HAX_EVERYWHERE int weight_words(int pieces) const { return steps * blocks * pieces * kWarp * 2; }
  HAX_EVERYWHERE int columns() const { return 16 * steps; }
  HAX_EVERYWHERE int words(int pieces) const { return 2 * weight_words(pieces) + 3 * columns(); }
  HAX_EVERYWHERE int plane() const { return tokens * row; }
  HAX_EVERYWHERE size_t shared_bytes(int pieces) const {
    return 2 * sizeof(uint16_t) * pieces * plane() + sizeof(float) * tokens * groups;
  }
};

// W as the second operands of products: (steps, blocks, pieces, lanes), two words each. One thread
// for every (step, block, lane).
template <int Pieces>
__device__ void pack_weights(const Tensor& W, const MlpShape& shape, int64_t index, uint32_t* to) {
  if (index >= shape.steps * shape.blocks * kWarp) return;
  const int lane = static_cast<int>(index % kWarp);
  const int64_t block = index / kWarp % shape.blocks, step = index / kWarp / shape.blocks;
  const int64_t output = block * 8 + lane / 4, input = step * 16 + lane % 4 * 2;
  float value[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t column = input + i / 2 * 8 + i % 2;
    value[i] = output < W.shape[0] && column < W.shape[1]
                   ? device::load_any(W, W.offset(output, column))
                   : 0.0f;
  }
  uint32_t low[Pieces], high[Pieces];
  device::split_bf16(low, value[0], value[1]);
  device::split_bf16(high, value[2], value[3]);
  uint2* words = reinterpret_cast<uint2*>(to) + (index / kWarp * Pieces) * kWarp + lane;
#pragma unroll
  for (int piece = 0; piece < Pieces; ++piece) words[piece * kWarp] = {low[piece], high[piece]};
}

// Up to 32 features; the shape is then that of 32.
HAX_EVERYWHERE bool narrow(const Inputs& p) { return p.features <= 32; }
HAX_EVERYWHERE MlpShape mlp_shape(const Inputs& p) { return narrow(p) ? 64 : p.width(); }

// Planes of activations, one a piece: rows of tokens.
template <int Pieces>
struct Activations {
  uint16_t* data;
  int row, plane;

  // Neighbours from an even column on.
  __device__ void store(int token, int column, float a, float b) const {
    uint32_t pieces[Pieces];
    device::split_bf16(pieces, a, b);
#pragma unroll
    for (int i = 0; i < Pieces; ++i) {
      *reinterpret_cast<uint32_t*>(data + i * plane + token * row + column) = pieces[i];
    }
  }
  // First operand: 16 tokens, 16 columns.
  __device__ void load(uint32_t (&a)[Pieces][4], int token, int step, int lane) const {
#pragma unroll
    for (int i = 0; i < Pieces; ++i) {
      device::load_matrix_x4(
          a[i], data + i * plane + (token + lane % 16) * row + step * 16 + lane / 16 * 8);
    }
  }
};

// finish(token, half, column, sum, sum of the next column) with all sums of a layer, without bias;
// half: of a block of 16 tokens.
template <int Pieces, class Finish>
__device__ void apply_layer(const MlpShape& shape, const Activations<Pieces>& in,
                            const uint32_t* weights, Finish&& finish) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int unit = warp; unit < shape.tokens / 16 * shape.groups; unit += kForwardWarps) {
    const int token = unit / shape.groups * 16, first = unit % shape.groups * kColumns;
    float high[kColumns][4] = {}, low[kColumns][4] = {};
    const uint2* words = reinterpret_cast<const uint2*>(weights) + first * Pieces * kWarp + lane;
#pragma unroll 2
    for (int step = 0; step < shape.steps; ++step) {
      uint32_t a[Pieces][4];
      in.load(a, token, step, lane);
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        if (first + column >= shape.blocks) break;
        uint32_t b[Pieces][2];
#pragma unroll
        for (int piece = 0; piece < Pieces; ++piece) {
          const uint2 pair = __ldg(words + (column * Pieces + piece) * kWarp);
          b[piece][0] = pair.x;
          b[piece][1] = pair.y;
        }
        device::mma_pieces(high[column], low[column], a, b);
      }
      words += shape.blocks * Pieces * kWarp;
    }
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      if (first + column >= shape.blocks) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        finish(token + lane / 4 + 8 * half, half, (first + column) * 8 + lane % 4 * 2,
               high[column][2 * half] + low[column][2 * half],
               high[column][2 * half + 1] + low[column][2 * half + 1]);
      }
    }
  }
}

// A block for every (slot of a tile, head).
template <class T>
__global__ void __launch_bounds__(kQueryThreads, 2)
    score_kernel(const __grid_constant__ ForwardParams p,
                 const __grid_constant__ CudaForwardPlan plan) {
  constexpr int kCount = kPieces<T>;
  extern __shared__ uint4 memory[];
  const MlpShape shape(p.width());
  InputReader<T> reader(p, plan.query, blockIdx.x);
  const SequenceTiles::Tile& tile = reader.tile;
  if (tile.begin >= tile.end) return;
  auto* planes = reinterpret_cast<uint16_t*>(memory);
  const Activations<kCount> even{planes, shape.row, shape.plane()};
  const Activations<kCount> odd{planes + kCount * shape.plane(), shape.row, shape.plane()};
  // Until the first layer writes there:
  float* queries = reinterpret_cast<float*>(odd.data);
  double* shared = reinterpret_cast<double*>(queries + shape.tokens * p.features);
  float* partial = reinterpret_cast<float*>(odd.data + kCount * shape.plane());
  const float b3 = *p.b3.at<float>(0);
  const uint32_t* W1 = plan.weights;
  const uint32_t* W2 = W1 + shape.weight_words(kCount);
  const int columns = shape.columns();
  const auto* b1 = reinterpret_cast<const float*>(W2 + shape.weight_words(kCount));
  const float *b2 = b1 + columns, *W3 = b2 + columns;
  const int features = static_cast<int>(p.features);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;

  for (int64_t begin = tile.begin; begin < tile.end; begin += shape.tokens) {
    const int64_t end = min(begin + shape.tokens, tile.end);
    const int count = static_cast<int>(end - begin);
    reader.read_queries(begin, end, queries, features, shared);
#pragma unroll 4
    for (int token = warp; token < shape.tokens; token += kForwardWarps) {
      const T* keys = reader.key_row(min(begin + token, end - 1));
      const float* query = queries + token * features - features;
      for (int column = 2 * lane; column < columns; column += 2 * kWarp) {
        float value[2];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int n = column + c;
          value[c] = token >= count || n >= 2 * features ? 0.0f
                     : n < features                      ? reader.key(keys, n)
                                                         : query[n];
        }
        even.store(token, column, value[0], value[1]);
      }
    }
    __syncthreads();
    apply_layer(shape, even, W1, [&](int token, int, int column, float a, float b) {
      odd.store(token, column, relu(a + b1[column]), relu(b + b1[column + 1]));
    });
    __syncthreads();
    // A warp's columns come one after the other; their share is added up, then written.
    float share[2] = {0.0f, 0.0f};
    apply_layer(shape, odd, W2, [&](int token, int half, int column, float a, float b) {
      const float product =
          W3[column] * relu(a + b2[column]) + W3[column + 1] * relu(b + b2[column + 1]);
      const int block = column / 8;
      share[half] = block % kColumns == 0 ? product : share[half] + product;
      if (block % kColumns != kColumns - 1 && block != shape.blocks - 1) return;
      const float sum = device::warp_sum<4>(share[half]);
      if (lane % 4 == 0) partial[token * shape.groups + block / kColumns] = sum;
    });
    __syncthreads();
    for (int token = threadIdx.x; token < count; token += kQueryThreads) {
      float sum = 0.0f;
      for (int group = 0; group < shape.groups; ++group)
        sum += partial[token * shape.groups + group];
      *p.score.at<float>(tile.range.row, reader.head, tile.range.begin + begin + token) = sum + b3;
    }
  }
}

}  // namespace hax::key_score
