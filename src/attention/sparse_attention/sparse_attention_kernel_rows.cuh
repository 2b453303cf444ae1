// Rows of q, k, v and o between global and shared memory.
#pragma once

#include <cstdlib>

#include "core/tensor.hpp"
#include "device/async_copy.cuh"
#include "device/element.cuh"

namespace hax::sparse_attention {

// One head's rows of a (B, L, H, D) tensor, from a sequence's start on.
template <class T>
struct RowsView {
  const Tensor& tensor;
  T* data;
  int32_t columns;
  int32_t short_stride;  // of tokens, if rows can be moved ...
  bool vectors;          // ... 16 bytes at a time

  __device__ RowsView(const Tensor& of, const Sequences::Range& range, int64_t head,
                      bool in_vectors)
      : tensor(of),
        data(of.at<T>(range.row, range.begin, head)),
        columns(static_cast<int32_t>(of.shape[3])),
        short_stride(static_cast<int32_t>(of.stride[1])),
        vectors(in_vectors) {
    asm volatile("" : "+l"(data));  // so that the address isn't computed again for every row
  }

  __device__ T* row(int32_t token) const { return data + token * tensor.stride[1]; }
  // In vectors. One instruction, which the compiler would make several of 64 bits.
  __device__ T* vector_row(int32_t token) const {
    T* at;
    asm("mad.wide.s32 %0, %1, %2, %3;"
        : "=l"(at)
        : "r"(token), "r"(short_stride * static_cast<int32_t>(sizeof(T))), "l"(data));
    return at;
  }
  __device__ int32_t width() const { return columns; }
  __device__ int64_t column_stride() const { return tensor.stride[3]; }
};

inline constexpr int kRowLanes = 8;

// Whether rows of a (B, L, H, D) tensor can be moved 16 bytes at a time, with a stride of 32 bits in bytes.
template <class T>
inline bool has_vector_rows(const Tensor& tensor) {
  return device::moves_in_vectors<device::kVectorElements<T>>(tensor) &&
         std::abs(tensor.stride[1]) <= int64_t{1} << 28;
}

// Shared rows have columns for whole fragments and 16 bytes besides, so that eight rows lie in different banks.
template <class T>
inline constexpr int kRowPadding = 16 / static_cast<int>(sizeof(T));

// Copies the row of `token` into `to`, kColumns columns with zeros behind the tensor's own; zeros alone where the token
// is negative. kRowLanes lanes share a row. The copies may still be under way (copy_async_16).
template <int kColumns, class T>
__device__ __forceinline__ void copy_vectors(T* to, const RowsView<T>& from, int32_t token,
                                             int lane) {
  constexpr int V = device::kVectorElements<T>;
  const int width = token < 0 ? 0 : from.columns;
  const T* row = from.vector_row(max(token, 0)) + lane * V;
#pragma unroll
  for (int c = 0; c < kColumns; c += kRowLanes * V) {
    if (kColumns % (kRowLanes * V) == 0 || c + lane * V < kColumns) {
      device::copy_async_16(to + lane * V + c, row + c, c + lane * V < width);
    }
  }
}

template <class T>
__device__ __noinline__ void copy_row_elements(T* to, const T* row, int64_t stride, int width,
                                               int columns, int lane) {
  for (int c = lane; c < columns; c += kRowLanes) to[c] = c < width ? row[c * stride] : T{};
}

// The same element by element, for any strides.
template <class T>
__device__ __forceinline__ void copy_elements(T* to, const RowsView<T>& from, int32_t token,
                                              int columns, int lane) {
  copy_row_elements<T>(to, from.row(max(token, 0)), from.column_stride(),
                       token < 0 ? 0 : from.columns, columns, lane);
}

// Writes a row that lies in shared memory; nothing where the token is negative.
template <class T>
__device__ void store_row(const RowsView<T>& to, int32_t token, const T* from, int lane) {
  constexpr int V = device::kVectorElements<T>;
  if (token < 0) return;
  T* row = to.row(token);
  if (to.vectors) {
    for (int c = lane * V; c < to.width(); c += kRowLanes * V) {
      *reinterpret_cast<uint4*>(row + c) = *reinterpret_cast<const uint4*>(from + c);
    }
    return;
  }
  for (int c = lane; c < to.width(); c += kRowLanes) row[c * to.column_stride()] = from[c];
}

}  // namespace hax::sparse_attention
