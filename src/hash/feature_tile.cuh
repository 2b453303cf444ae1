// Rows of features as operands of tensor-core products. Which feature meets which place of a
// product is free as long as both operands agree, so a lane takes 8 neighbours at a time, with one
// access.
#pragma once

#include "device/element.cuh"
#include "device/split_bf16.cuh"

namespace hax {

inline constexpr int kFeatureBlock = 32;  // features of two steps of a product
inline constexpr int kLaneFeatures = 8;

// How many pieces of bf16 hold any value of T.
template <class T>
inline constexpr int kExactPieces = type_of<T> == Type::bf16   ? 1
                                    : type_of<T> == Type::fp16 ? 2
                                                               : 3;

// Whether rows of features can be moved in accesses of 16 bytes, or 8 features.
inline bool features_move_in_vectors(const Tensor& x) {
  return size_of(x.type) == 2 ? device::moves_in_vectors<8>(x)
                              : x.shape[x.ndim - 1] % 8 == 0 && device::moves_in_vectors<4>(x);
}

// Eight neighbouring features of a row as they lie in memory. In words, as the compiler would spend
// a register on each 16-bit element.
template <class T>
struct FeatureWords {
  static constexpr int kCount = kLaneFeatures * static_cast<int>(sizeof(T)) / 4;
  uint32_t word[kCount] = {};

  // Features first ... first + 7, zeros beyond the row's end.
  __device__ void load(const T* row, int64_t stride, int first, int count, bool vectors) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) word[i] = 0;
    if (vectors) {
      if (first >= count) return;
#pragma unroll
      for (int i = 0; i < kCount; i += 4) {
        const uint4 part = __ldg(reinterpret_cast<const uint4*>(row + first) + i / 4);
        word[i] = part.x;
        word[i + 1] = part.y;
        word[i + 2] = part.z;
        word[i + 3] = part.w;
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kLaneFeatures; ++i) {
      if (first + i >= count) break;
      const T value = row[(first + i) * stride];
      if constexpr (sizeof(T) == 2) {
        word[i / 2] |= static_cast<uint32_t>(value.bits) << (i % 2 * 16);
      } else {
        word[i] = __float_as_uint(value);
      }
    }
  }

  __device__ float operator[](int i) const {
    if constexpr (sizeof(T) == 2) {
      return device::to_float(T{static_cast<uint16_t>(word[i / 2] >> (i % 2 * 16))});
    } else {
      return __uint_as_float(word[i]);
    }
  }
};

// Operands of step 0 or 1 from a lane's features of its two rows (of a 16 x 16 block), in pieces;
// f(half, i) is feature i of row 0 or 1.
template <int Pieces, class F>
__device__ void feature_fragment(uint32_t (&a)[Pieces][4], int step, F&& f) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      uint32_t pieces[Pieces];
      const int i = 4 * step + 2 * half;
      device::split_bf16(pieces, f(row, i), f(row, i + 1));
#pragma unroll
      for (int piece = 0; piece < Pieces; ++piece) a[piece][2 * half + row] = pieces[piece];
    }
  }
}

// First of the 4 neighbouring features that a lane holds of the other operand in a step, counted
// over all blocks of features.
__device__ inline int fragment_feature(int step, int lane) {
  return step / 2 * kFeatureBlock + lane % 4 * kLaneFeatures + step % 2 * 4;
}

}  // namespace hax
