// Rows between global memory and the panels of sparse_attention_kernel_backward_products.cuh.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_memory.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_products.cuh"

namespace hax::sparse_attention {

inline constexpr int kTileThreads = 2 * kTileRows;

// Where one head's rows of a (B, L, heads, width) tensor begin, for one sequence. vectors: rows move 16 bytes at a time,
// and strides of tokens are short.
template <class T>
struct HeadRows {
  T* data;
  const Tensor& tensor;
  bool vectors;

  // In vectors. One instruction, which the compiler would make five of 64 bits.
  __device__ T* row(int32_t token) const {
    const auto bytes = static_cast<int32_t>(tensor.stride[1]) * static_cast<int32_t>(sizeof(T));
    T* at;
    asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(at) : "r"(token), "r"(bytes), "l"(data));
    return at;
  }
};

// The same for any strides, element by element.
template <class T, class F>
__device__ void load_elements(uint32_t to, const HeadRows<const T>& rows, int columns, int count,
                              F&& token) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * columns; i += kTileThreads) {
    const int row = i / columns, column = i % columns;
    const bool there = row < count && column < rows.tensor.shape[3];
    auto* const at = static_cast<T*>(
        device::shared_pointer(to + swizzled_place(row, column / 8) + column % 8 * 2));
    *at = there ? rows.data[token(row) * rows.tensor.stride[1] + column * rows.tensor.stride[3]]
                : T{};
  }
}

// Copies rows token(0) .. token(count - 1), with zeros behind them and behind their width, to a tile in shared memory;
// asynchronously if in vectors.
template <int kColumns, class T, class F>
__device__ void load_panels(uint32_t to, const HeadRows<const T>& rows, int count, F&& token) {
  if (!rows.vectors) return load_elements(to, rows, kColumns, count, token);
  constexpr int kEights = kColumns / 8, kRowsAtOnce = kTileThreads / kEights;
  static_assert(kRowsAtOnce % 8 == 0);
  const int eight = static_cast<int>(threadIdx.x) % kEights;
  const int row = static_cast<int>(threadIdx.x) / kEights;
  const bool inside = eight * 8 < static_cast<int>(rows.tensor.shape[3]);
  const HeadRows<const T> from{rows.data + (inside ? eight * 8 : 0), rows.tensor, true};
  const int there = inside ? count - row : 0;
  const uint32_t at = to + swizzled_place(row, eight);
#pragma unroll
  for (int n = 0; n < kTileRows; n += kRowsAtOnce) {
    device::copy_async_16(at + n * 128, from.row(token(min(n + row, count - 1))), n < there);
  }
}

// Element m of lane n's words becomes element n of lane m's, among four neighbouring lanes.
__device__ inline void transpose_in_quad(uint32_t (&words)[4]) {
  const int lane = static_cast<int>(threadIdx.x % 4);
#pragma unroll
  for (int bit = 1; bit < 4; bit *= 2) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      uint32_t& low = words[bit == 1 ? 2 * pair : pair];
      uint32_t& high = words[bit == 1 ? 2 * pair + 1 : pair + 2];
      const bool upper = (lane & bit) != 0;
      const uint32_t other = __shfl_xor_sync(0xffffffffu, upper ? low : high, bit);
      (upper ? low : high) = other;
    }
  }
}

template <int kBlocks, class T>
__device__ __noinline__ void store_elements(T* row, int64_t stride, int width,
                                            const float (&sums)[kBlocks][2], bool add) {
  for (int n = 0; n < kBlocks; ++n) {
    for (int e = 0; e < 2; ++e) {
      const int column = n * 8 + static_cast<int>(threadIdx.x % 4) * 2 + e;
      if (column >= width) continue;
      T& at = row[column * stride];
      at = device::from_float<T>(add ? sums[n][e] + device::to_float(at) : sums[n][e]);
    }
  }
}

// Writes sums, scaled, to the rows of two tokens, the second one for sums 2 and 3; none where a token is negative.
// add: to what they hold.
template <int kBlocks, class T>
__device__ void store_sums(const HeadRows<T>& rows, const float (&sums)[kBlocks][4], float scale,
                           const int32_t (&tokens)[2], bool add) {
  const auto lane = static_cast<int>(threadIdx.x % 4);
  const auto width = static_cast<int>(rows.tensor.shape[3]);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t token = tokens[half];
    if (rows.vectors) {
      // In words of 16 bytes: what is held is asked for before any of it is waited for.
      T* const to = rows.row(max(token, 0)) + lane * 8;
      uint4 held[kBlocks / 4];
#pragma unroll
      for (int n = 0; n < kBlocks / 4; ++n) {
        const bool there = add && token >= 0 && n * 32 + lane * 8 < width;
        held[n] = there ? *reinterpret_cast<const uint4*>(to + n * 32) : uint4{};
      }
#pragma unroll
      for (int n = 0; n < kBlocks / 4; ++n) {
        uint32_t words[4] = {held[n].x, held[n].y, held[n].z, held[n].w};
        if (add) transpose_in_quad(words);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* const sum = &sums[n * 4 + i][2 * half];
          const float2 former = device::unpack_pair<T>(words[i]);
          words[i] = device::pack_pair<T>(former.x + sum[0] * scale, former.y + sum[1] * scale);
        }
        transpose_in_quad(words);
        if (token >= 0 && n * 32 + lane * 8 < width) {
          *reinterpret_cast<uint4*>(to + n * 32) = {words[0], words[1], words[2], words[3]};
        }
      }
    } else if (token >= 0) {
      float scaled[kBlocks][2];
      for (int n = 0; n < kBlocks; ++n) {
        for (int e = 0; e < 2; ++e) scaled[n][e] = sums[n][2 * half + e] * scale;
      }
      store_elements(rows.data + token * rows.tensor.stride[1], rows.tensor.stride[3], width,
                     scaled, add);
    }
  }
}

}  // namespace hax::sparse_attention
