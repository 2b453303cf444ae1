// Backward's rows and marks in shared memory.
#pragma once

#include "attention/sparse_attention/sparse_attention_cuda_backward.hpp"
#include "attention/sparse_attention/sparse_attention_kernel_pattern.cuh"
#include "device/async_copy.cuh"
#include "device/element.cuh"

namespace hax::sparse_attention {

// Which of a tile's pairs of query and key count; `own` and `lsh` as in sparse_attention_kernel_pattern.cuh.
enum class PairRule {
  own,          // those of the keys' spans
  lsh,          // those looked up in key_order
  own_not_lsh,  // those of the spans that are not looked up
  either,
};

// Numbers of the queries and keys of the tiles at hand.
template <int N>
struct QueryMarks {
  int32_t position[N];  // -1: not there
  int32_t begin[N];
  uint32_t count[N];  // of its keys in key_order
  float lse[N];       // in units of log 2
  float delta[N];
};
template <int N>
struct KeyMarks {
  int32_t position[N];
  uint32_t span[N];
  int32_t rank[N];
};

// Which tensors can be moved 16 bytes at a time.
struct BackwardAccess {
  bool q, k, v, d_o, dq, dk, dv;
};

// Rows of one head of a (B, L, heads, width) tensor; `data`: those of a sequence's first token.
template <class T>
struct TileRowsView {
  T* data;
  int64_t stride, element_stride;
  int width;
  bool vectors;

  __device__ TileRowsView(const Tensor& tensor, T* first, bool vectors)
      : data(first),
        stride(tensor.stride[1]),
        element_stride(tensor.stride[3]),
        width(static_cast<int>(tensor.shape[3])),
        vectors(vectors) {}
  __device__ TileRowsView(const Tensor& tensor, const Sequences::Range& range, int64_t head,
                          bool vectors)
      : TileRowsView(tensor, tensor.at<T>(range.row, range.begin, head), vectors) {}
};

// Copies rows position(0 .. kRows - 1) to shared memory, padded with zeros; asynchronously if in vectors.
template <int kThreads, int kRows, int kWidth, int kStride, class T, class F>
__device__ void load_tile(T* to, const TileRowsView<const T>& rows, F&& position) {
  if (rows.vectors) {
    constexpr int V = device::kVectorElements<T>;
    constexpr int kVectors = kWidth / V;
    static_assert(kThreads % kVectors == 0);
    const int column = static_cast<int>(threadIdx.x) % kVectors * V;
    const bool inside = column < rows.width;
    const T* const from = rows.data + (inside ? column : 0);
#pragma unroll 4
    for (int row = static_cast<int>(threadIdx.x) / kVectors; row < kRows;
         row += kThreads / kVectors) {
      const int32_t at = position(row);
      device::copy_async_16(to + row * kStride + column, at >= 0 ? from + at * rows.stride : from,
                            inside && at >= 0);
    }
    return;
  }
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kWidth; i += kThreads) {
    const int row = i / kWidth, column = i % kWidth;
    const int32_t at = position(row);
    to[row * kStride + column] = at >= 0 && column < rows.width
                                     ? rows.data[at * rows.stride + column * rows.element_stride]
                                     : device::from_float<T>(0.0f);
  }
}

// Replaces what isn't finite by 0.
template <int kThreads, int kRows, int kWidth, int kStride, class T>
__device__ void clean_tile(T* tile) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kWidth; i += kThreads) {
    T& value = tile[i / kWidth * kStride + i % kWidth];
    if (!isfinite(device::to_float(value))) value = device::from_float<T>(0.0f);
  }
}

}  // namespace hax::sparse_attention
