// What the CUDA backend's kernels share: matrices of either element type, functors over their octets (eight
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
constexpr int kOctet = 8;

inline int64_t blocks_for(int64_t count, int64_t per_block) {
  return (count + per_block - 1) / per_block;
}

inline void check_launch(const char* what) { check_cuda(cudaGetLastError(), what); }

__device__ inline float sigmoid(float x) { return __frcp_rn(1.0f + __expf(-x)); }

struct Octet {
  float at[kOctet];
};

__device__ inline float dot(const Octet& a, const Octet& b) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kOctet; ++i) sum += a.at[i] * b.at[i];
  return sum;
}

// Of eight numbers in bf16.
__device__ inline Octet octet_of(uint4 units) {
  const uint32_t words[] = {units.x, units.y, units.z, units.w};
  Octet octet;
#pragma unroll
  for (int i = 0; i < kOctet / 2; ++i) {
    octet.at[2 * i] = __uint_as_float(words[i] << 16);
    octet.at[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return octet;
}

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

  __device__ Octet load(int64_t row, int column) const {
    Octet octet;
    const int64_t at = row * stride + column;
#pragma unroll
    for (int i = 0; i < kOctet; ++i) {
      octet.at[i] = column + i >= columns ? 0.0f
                    : bf16 ? __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(data)[at + i])
                           : reinterpret_cast<const float*>(data)[at + i];
    }
    return octet;
  }

  __device__ void store(int64_t row, int column, const Octet& octet) const {
    const int64_t at = row * stride + column;
#pragma unroll
    for (int i = 0; i < kOctet; ++i) {
      if (column + i >= columns) continue;
      if (bf16) {
        reinterpret_cast<__nv_bfloat16*>(data)[at + i] = __float2bfloat16_rn(octet.at[i]);
      } else {
        reinterpret_cast<float*>(data)[at + i] = octet.at[i];
      }
    }
  }

  // Columns of a vector of `count` fp32 numbers.
  __device__ static Octet load_vector(const float* vector, int column, int count) {
    Octet octet;
#pragma unroll
    for (int i = 0; i < kOctet; ++i) octet.at[i] = column + i < count ? vector[column + i] : 0.0f;
    return octet;
  }
};

// One of a known element type whose octets can be moved at once: no branch keeps a load waiting for another.
template <class T>
struct OctetCells {
  T* data = nullptr;
  int64_t stride = 0;
  int32_t columns = 0;

  OctetCells() = default;
  OctetCells(ConstTokens m)  // NOLINT: as above
      : data(const_cast<T*>(static_cast<const T*>(m.data))),
        stride(m.stride),
        columns(static_cast<int32_t>(m.columns)) {}
  OctetCells(Tokens m) : OctetCells(ConstTokens(m)) {}

  __device__ bool present() const { return data != nullptr; }

  __device__ Octet load(int64_t row, int column) const {
    const T* at = data + row * stride + column;
    if constexpr (sizeof(T) == 2) {
      return octet_of(*reinterpret_cast<const uint4*>(at));
    } else {
      return load_vector(at, 0, kOctet);
    }
  }

  __device__ void store(int64_t row, int column, const Octet& octet) const {
    T* at = data + row * stride + column;
    if constexpr (sizeof(T) == 2) {
      uint32_t words[kOctet / 2];
#pragma unroll
      for (int i = 0; i < kOctet / 2; ++i) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(octet.at[2 * i], octet.at[2 * i + 1]);
        words[i] = *reinterpret_cast<const uint32_t*>(&pair);
      }
      *reinterpret_cast<uint4*>(at) = {words[0], words[1], words[2], words[3]};
    } else {
      auto* four = reinterpret_cast<float4*>(at);
      four[0] = {octet.at[0], octet.at[1], octet.at[2], octet.at[3]};
      four[1] = {octet.at[4], octet.at[5], octet.at[6], octet.at[7]};
    }
  }

  __device__ void store_units(int64_t row, int column, uint4 units) const {
    *reinterpret_cast<uint4*>(data + row * stride + column) = units;
  }

  __device__ static Octet load_vector(const float* vector, int column, int) {
    const auto* four = reinterpret_cast<const float4*>(vector + column);
    const float4 low = four[0], high = four[1];
    return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
  }
};

// Whether every octet of the matrix, where it is present, can be moved at once.
inline bool has_whole_octets(ConstTokens m) {
  return m.columns % kOctet == 0 && m.stride % kOctet == 0 &&
         reinterpret_cast<uintptr_t>(m.data) % sizeof(uint4) == 0;
}
inline bool has_whole_octets(const float* vector) {
  return reinterpret_cast<uintptr_t>(vector) % sizeof(float4) == 0;
}

// Calls f.operator()<X, T>() with what fits: X for fp32 matrices, T for activations; AnyCells for both unless all
// octets are whole and the types as they should be.
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
    if (m.present()) whole = whole && has_whole_octets(m) && m.element == Element::kFp32;
  }
  for (const ConstTokens& m : activations) {
    if (m.present()) whole = whole && has_whole_octets(m) && m.element == element;
  }
  for (const float* vector : vectors) whole = whole && has_whole_octets(vector);
  if (!whole) {
    f.template operator()<AnyCells, AnyCells>();
  } else if (element == Element::kBf16) {
    f.template operator()<OctetCells<float>, OctetCells<__nv_bfloat16>>();
  } else {
    f.template operator()<OctetCells<float>, OctetCells<float>>();
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
__global__ void octets_kernel(uint32_t count, uint32_t octets, F f) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i < count) f(int64_t{i / octets}, static_cast<int>(i % octets) * kOctet);
}

// f(row, first column) for every octet.
template <class F>
void for_octets(cudaStream_t stream, int64_t rows, int64_t columns, const F& f) {
  const int64_t octets = blocks_for(columns, kOctet), count = rows * octets;
  if (count == 0) return;
  if (count > INT32_MAX)
    throw ModelError("a batch of so many tokens is more than the GPU part takes");
  octets_kernel<<<static_cast<unsigned>(blocks_for(count, kThreads)), kThreads, 0, stream>>>(
      static_cast<uint32_t>(count), static_cast<uint32_t>(octets), f);
  check_launch("launching over octets");
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
  while (lanes < kWarp && lanes * kOctet < columns) lanes *= 2;
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
