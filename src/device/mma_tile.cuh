// Products of matrices in shared memory on tensor cores, for all three activation types: fp16 and bf16 by their own
// instructions, fp32 by three products of tf32 halves. Accumulators are the 16 x 8 fragments of mma.cuh. Rows of
// matrices of 16-bit elements start at multiples of 16 bytes; 16 bytes of padding a row avoid bank conflicts.
#pragma once

#include "device/element.cuh"
#include "device/mma.cuh"

namespace hax::device {

// 16 x 16 of the left factor.
template <class T>
struct LeftFragment {
  uint32_t pairs[4];
};
template <>
struct LeftFragment<float> {
  float values[2][4];  // two blocks of 8 columns
};

// 16 x 8 of the right factor.
template <class T>
struct RightFragment {
  uint32_t pairs[2];
};
template <>
struct RightFragment<float> {
  float values[2][2];  // two blocks of 8 rows
};

// A factor that multiplies fragments: of a row, or of the contracted index.
template <class T>
struct WeightOf {
  using type = uint32_t;  // twice the same T
};
template <>
struct WeightOf<float> {
  using type = float;
};
template <class T>
using Weight = typename WeightOf<T>::type;

template <class T>
__device__ Weight<T> make_weight(float value) {
  if constexpr (type_of<T> == Type::fp32) {
    return value;
  } else {
    return from_float<T>(value).bits * 0x10001u;
  }
}

template <class T>
__device__ uint32_t multiply_pairs(uint32_t a, uint32_t b) {
  uint32_t product;
  if constexpr (type_of<T> == Type::bf16) {
    __nv_bfloat162 x, y;
    memcpy(&x, &a, 4);
    memcpy(&y, &b, 4);
    x = __hmul2(x, y);
    memcpy(&product, &x, 4);
  } else {
    __half2 x, y;
    memcpy(&x, &a, 4);
    memcpy(&y, &b, 4);
    x = __hmul2(x, y);
    memcpy(&product, &x, 4);
  }
  return product;
}

// Rows [row, row + 16), columns [k, k + 16) of a matrix; transposed: element (i, j) is at from[j * stride + i].
template <bool kTransposed, class T>
__device__ void load_left(LeftFragment<T>& a, const T* from, int stride, int row, int k, int lane) {
  if constexpr (type_of<T> == Type::fp32) {
    const int r = row + lane / 4, c = k + lane % 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int m = r + i % 2 * 8, n = c + i / 2 * 4;
      a.values[i / 4][i % 4] = kTransposed ? from[n * stride + m] : from[m * stride + n];
    }
  } else if constexpr (kTransposed) {
    load_matrix_x4_transposed(
        a.pairs, from + (k + lane / 16 * 8 + lane % 8) * stride + row + lane / 8 % 2 * 8);
  } else {
    load_matrix_x4(a.pairs, from + (row + lane % 16) * stride + k + lane / 16 * 8);
  }
}

// Rows [k, k + 16), columns [column, column + 16), as two fragments; transposed as above.
template <bool kTransposed, class T>
__device__ void load_right(RightFragment<T> (&b)[2], const T* from, int stride, int k, int column,
                           int lane) {
  if constexpr (type_of<T> == Type::fp32) {
    const int r = k + lane % 4, c = column + lane / 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int m = r + i % 4 * 4, n = c + i / 4 * 8;
      b[i / 4].values[i / 2 % 2][i % 2] = kTransposed ? from[n * stride + m] : from[m * stride + n];
    }
  } else {
    uint32_t pairs[4];
    if constexpr (kTransposed) {
      load_matrix_x4(pairs,
                     from + (column + lane / 16 * 8 + lane % 8) * stride + k + lane / 8 % 2 * 8);
    } else {
      load_matrix_x4_transposed(pairs, from + (k + lane % 16) * stride + column + lane / 16 * 8);
    }
    b[0] = {{pairs[0], pairs[1]}};
    b[1] = {{pairs[2], pairs[3]}};
  }
}

template <class T>
__device__ void multiply_add(float (&d)[4], const LeftFragment<T>& a, const RightFragment<T>& b) {
  if constexpr (type_of<T> == Type::fp32) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t a_high[4], a_low[4], b_high[2], b_low[2];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const SplitTf32 split = split_tf32(a.values[half][i]);
        a_high[i] = split.high;
        a_low[i] = split.low;
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const SplitTf32 split = split_tf32(b.values[half][i]);
        b_high[i] = split.high;
        b_low[i] = split.low;
      }
      mma_16x8x8_tf32(d, a_low, b_high);
      mma_16x8x8_tf32(d, a_high, b_low);
      mma_16x8x8_tf32(d, a_high, b_high);
    }
  } else {
    mma_16x8x16<T>(d, a.pairs, b.pairs);
  }
}

// Multiplies rows lane / 4 and lane / 4 + 8.
template <class T>
__device__ void scale_rows(LeftFragment<T>& a, Weight<T> upper, Weight<T> lower) {
  if constexpr (type_of<T> == Type::fp32) {
#pragma unroll
    for (int i = 0; i < 8; ++i) a.values[i / 4][i % 4] *= i % 2 ? lower : upper;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) a.pairs[i] = multiply_pairs<T>(a.pairs[i], i % 2 ? lower : upper);
  }
}

// Multiplies column j by weights[j].
template <class T>
__device__ void scale_columns(LeftFragment<T>& a, const T* weights, int lane) {
  if constexpr (type_of<T> == Type::fp32) {
#pragma unroll
    for (int i = 0; i < 8; ++i) a.values[i / 4][i % 4] *= weights[lane % 4 + i / 2 * 4];
  } else {
    const auto* const pairs = reinterpret_cast<const uint32_t*>(weights);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a.pairs[i] = multiply_pairs<T>(a.pairs[i], pairs[lane % 4 + i / 2 * 4]);
    }
  }
}

// A factor in shared memory; transposed: element (i, j) is at data[j * stride + i].
template <class T, bool kTransposed>
struct Factor {
  const T* data;
  int stride;
};
template <class T>
__device__ Factor<T, false> factor(const T* data, int stride) {
  return {data, stride};
}
template <class T>
__device__ Factor<T, true> transposed(const T* data, int stride) {
  return {data, stride};
}

// Accumulators of a warp: kRows x kColumns from (row, column) of a product on.
template <int kRows, int kColumns>
struct WarpTile {
  static_assert(kRows % 16 == 0 && kColumns % 16 == 0);
  static constexpr int kRowBlocks = kRows / 16, kColumnBlocks = kColumns / 8;
  float values[kRowBlocks][kColumnBlocks][4];

  __device__ void clear() { fill(0.0f); }
  __device__ void fill(float value) {
    for_each([&](float& v, int, int) { v = value; });
  }
  // f(value, row, column), both counted from the tile's corner; all of a row's columns before the next row.
  template <class F>
  __device__ void for_each(F&& f) {
    const int r = threadIdx.x % 32 / 4, c = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < kRowBlocks; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int j = 0; j < kColumnBlocks; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            f(values[i][j][2 * half + e], 16 * i + r + 8 * half, 8 * j + c + e);
          }
        }
      }
    }
  }
  // The same for pairs of neighbours: f(first value, second value, row, column of the first).
  template <class F>
  __device__ void for_each_pair(F&& f) {
    const int r = threadIdx.x % 32 / 4, c = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < kRowBlocks; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int j = 0; j < kColumnBlocks; ++j) {
          f(values[i][j][2 * half], values[i][j][2 * half + 1], 16 * i + r + 8 * half, 8 * j + c);
        }
      }
    }
  }
  // Adds rows [row, ...) of `a` times columns [column, ...) of `b`, contracted over [begin, end), multiples of 16.
  // change(fragment of a, row block, k) may alter what was read.
  template <class T, bool kA, bool kB, class Change>
  __device__ void add_product(Factor<T, kA> a, int row, Factor<T, kB> b, int column, int begin,
                              int end, Change&& change) {
    const int lane = threadIdx.x % 32;
#pragma unroll 4
    for (int k = begin; k < end; k += 16) {
      LeftFragment<T> left[kRowBlocks];
#pragma unroll
      for (int i = 0; i < kRowBlocks; ++i) {
        load_left<kA>(left[i], a.data, a.stride, row + 16 * i, k, lane);
        change(left[i], i, k);
      }
#pragma unroll
      for (int j = 0; j < kColumnBlocks; j += 2) {
        RightFragment<T> right[2];
        load_right<kB>(right, b.data, b.stride, k, column + 8 * j, lane);
#pragma unroll
        for (int i = 0; i < kRowBlocks; ++i) {
          multiply_add<T>(values[i][j], left[i], right[0]);
          multiply_add<T>(values[i][j + 1], left[i], right[1]);
        }
      }
    }
  }
  template <class T, bool kA, bool kB>
  __device__ void add_product(Factor<T, kA> a, int row, Factor<T, kB> b, int column, int begin,
                              int end) {
    add_product(a, row, b, column, begin, end, [](LeftFragment<T>&, int, int) {});
  }
};

// How warps share out a product of kRows x kColumns.
template <int kRows_, int kColumns_, int kAcross_, int kDown_>
struct WarpGrid {
  static constexpr int kAcross = kAcross_, kDown = kDown_, kWarps = kAcross_ * kDown_;
  static constexpr int kRows = kRows_ / kDown_, kColumns = kColumns_ / kAcross_;
  using Tile = WarpTile<kRows, kColumns>;
  static __device__ int row(int warp) { return warp / kAcross * kRows; }
  static __device__ int column(int warp) { return warp % kAcross * kColumns; }
};

}  // namespace hax::device
