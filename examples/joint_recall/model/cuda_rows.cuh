// What the CUDA backend's kernels share: matrices of either element type, functors over their quads (four
// neighbouring columns) and rows, and sums over rows in an order that shapes alone fix.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "model/backend_cuda.hpp"
#include "model/error.hpp"
#include "model/matrix.hpp"

namespace joint_recall::cuda_rows {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kQuad = 4;

inline int64_t blocks_for(int64_t count, int64_t per_block) {
  return (count + per_block - 1) / per_block;
}

inline void check_launch(const char* what) { check_cuda(cudaGetLastError(), what); }

__device__ inline float sigmoid(float x) { return __frcp_rn(1.0f + __expf(-x)); }

struct Quad {
  float at[kQuad];
};

// A matrix as kernels see it, of any shape, stride and element type.
struct AnyCells {
  char* data = nullptr;
  int64_t stride = 0;
  int32_t columns = 0;
  bool bf16 = false;

  AnyCells() = default;
  AnyCells(ConstTokens m)  // NOLINT: kernels write only what callers gave as Tokens
      : data(const_cast<char*>(static_cast<const char*>(m.data))),
        stride(m.stride),
        columns(static_cast<int32_t>(m.columns)),
        bf16(m.is_bf16()) {}
  AnyCells(Tokens m) : AnyCells(ConstTokens(m)) {}

  __device__ bool present() const { return data != nullptr; }

  __device__ Quad load(int64_t row, int column) const {
    Quad quad;
    const int64_t at = row * stride + column;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      quad.at[i] = column + i >= columns ? 0.0f
                   : bf16 ? __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(data)[at + i])
                          : reinterpret_cast<const float*>(data)[at + i];
    }
    return quad;
  }

  __device__ void store(int64_t row, int column, const Quad& quad) const {
    const int64_t at = row * stride + column;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      if (column + i >= columns) continue;
      if (bf16) {
        reinterpret_cast<__nv_bfloat16*>(data)[at + i] = __float2bfloat16_rn(quad.at[i]);
      } else {
        reinterpret_cast<float*>(data)[at + i] = quad.at[i];
      }
    }
  }

  // Columns of a vector of `count` fp32 numbers.
  __device__ static Quad load_vector(const float* vector, int column, int count) {
    Quad quad;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) quad.at[i] = column + i < count ? vector[column + i] : 0.0f;
    return quad;
  }
};

// One of a known element type whose quads can be moved at once: no branch keeps a load waiting for another.
template <class T>
struct QuadCells {
  T* data = nullptr;
  int64_t stride = 0;
  int32_t columns = 0;

  QuadCells() = default;
  QuadCells(ConstTokens m)  // NOLINT: as above
      : data(const_cast<T*>(static_cast<const T*>(m.data))),
        stride(m.stride),
        columns(static_cast<int32_t>(m.columns)) {}
  QuadCells(Tokens m) : QuadCells(ConstTokens(m)) {}

  __device__ bool present() const { return data != nullptr; }

  __device__ Quad load(int64_t row, int column) const {
    const T* at = data + row * stride + column;
    if constexpr (sizeof(T) == 2) {
      const uint2 bits = *reinterpret_cast<const uint2*>(at);
      return {{__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000u),
               __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000u)}};
    } else {
      return load_vector(at, 0, kQuad);
    }
  }

  __device__ void store(int64_t row, int column, const Quad& quad) const {
    T* at = data + row * stride + column;
    if constexpr (sizeof(T) == 2) {
      const __nv_bfloat162 low = __floats2bfloat162_rn(quad.at[0], quad.at[1]);
      const __nv_bfloat162 high = __floats2bfloat162_rn(quad.at[2], quad.at[3]);
      *reinterpret_cast<uint2*>(at) = {*reinterpret_cast<const uint32_t*>(&low),
                                       *reinterpret_cast<const uint32_t*>(&high)};
    } else {
      *reinterpret_cast<float4*>(at) = {quad.at[0], quad.at[1], quad.at[2], quad.at[3]};
    }
  }

  __device__ static Quad load_vector(const float* vector, int column, int) {
    const float4 values = *reinterpret_cast<const float4*>(vector + column);
    return {{values.x, values.y, values.z, values.w}};
  }
};

// Whether every quad of the matrix, where it is present, can be moved at once.
inline bool has_whole_quads(ConstTokens m) {
  const auto width = static_cast<uintptr_t>(kQuad * bytes_of(m.element));
  return m.columns % kQuad == 0 && m.stride % kQuad == 0 &&
         reinterpret_cast<uintptr_t>(m.data) % width == 0;
}
inline bool has_whole_quads(const float* vector) {
  return reinterpret_cast<uintptr_t>(vector) % sizeof(float4) == 0;
}

// Calls f.operator()<X, T>() with what fits: X for fp32 matrices, T for activations; AnyCells for both unless all
// quads are whole and the types as they should be.
template <class F>
void with_cells(std::initializer_list<ConstTokens> fp32,
                std::initializer_list<ConstTokens> activations,
                std::initializer_list<const float*> vectors, const F& f) {
  Element element = Element::kFp32;
  for (const ConstTokens& m : activations) {
    if (m.present()) element = m.element;
  }
  bool whole = true;
  for (const ConstTokens& m : fp32) {
    if (m.present()) whole = whole && has_whole_quads(m) && m.element == Element::kFp32;
  }
  for (const ConstTokens& m : activations) {
    if (m.present()) whole = whole && has_whole_quads(m) && m.element == element;
  }
  for (const float* vector : vectors) whole = whole && has_whole_quads(vector);
  if (!whole) {
    f.template operator()<AnyCells, AnyCells>();
  } else if (element == Element::kBf16) {
    f.template operator()<QuadCells<float>, QuadCells<__nv_bfloat16>>();
  } else {
    f.template operator()<QuadCells<float>, QuadCells<float>>();
  }
}

template <class F>
__global__ void elements_kernel(int64_t count, F f) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) f(i);
}

// f(index) for every index below count.
template <class F>
void for_elements(cudaStream_t stream, int64_t count, const F& f) {
  const int64_t blocks = blocks_for(count, kThreads);
  if (blocks == 0) return;
  elements_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(count, f);
  check_launch("launching over elements");
}

template <class F>
__global__ void quads_kernel(uint32_t count, uint32_t quads, F f) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i < count) f(int64_t{i / quads}, static_cast<int>(i % quads) * kQuad);
}

// f(row, first column) for every quad.
template <class F>
void for_quads(cudaStream_t stream, int64_t rows, int64_t columns, const F& f) {
  const int64_t quads = blocks_for(columns, kQuad), count = rows * quads;
  if (count == 0) return;
  if (count > INT32_MAX)
    throw ModelError("a batch of so many tokens is more than the GPU part takes");
  quads_kernel<<<static_cast<unsigned>(blocks_for(count, kThreads)), kThreads, 0, stream>>>(
      static_cast<uint32_t>(count), static_cast<uint32_t>(quads), f);
  check_launch("launching over quads");
}

// Neighbouring lanes, a power of two, that share a row.
struct Lanes {
  int count, index;

  __device__ float sum(float value) const {
    for (int distance = count / 2; distance > 0; distance /= 2) {
      value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
  }
};

inline int lanes_for(int64_t columns) {
  int lanes = 1;
  while (lanes < kWarp && lanes * kQuad < columns) lanes *= 2;
  return lanes;
}

template <class F>
__global__ void rows_kernel(int64_t rows, int lanes, F f) {
  const int64_t row = int64_t{blockIdx.x} * (kThreads / lanes) + threadIdx.x / lanes;
  // Lanes beyond the last row take part in its shuffles.
  f(row < rows ? row : rows - 1, row < rows, Lanes{lanes, static_cast<int>(threadIdx.x) % lanes});
}

// f(row, counts, lanes) for every row; where it does not count, f must write nothing.
template <class F>
void for_rows(cudaStream_t stream, int64_t rows, int64_t columns, const F& f) {
  const int lanes = lanes_for(columns);
  const int64_t blocks = blocks_for(rows, kThreads / lanes);
  if (blocks == 0) return;
  rows_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(rows, lanes, f);
  check_launch("launching over rows");
}

}  // namespace joint_recall::cuda_rows
