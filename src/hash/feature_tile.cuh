// Rows of features as operands of tensor-core products. Which feature meets which place of a product is free as
// long as both operands agree, so a lane takes 8 neighbours at a time, with one access.
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

// Features first ... first + 7 of a row, zeros beyond its end.
template <class T>
__device__ void load_features(float (&to)[kLaneFeatures], const T* row, int64_t stride, int first,
                              int count, bool vectors) {
  if (vectors) {
    constexpr int V = device::kVectorElements<T>;
#pragma unroll
    for (int v = 0; v < kLaneFeatures; v += V) {
      device::Packed<T, V> packed = {};
      if (first < count) packed = device::load_packed<T, V>(row + first + v);
#pragma unroll
      for (int i = 0; i < V; ++i) to[v + i] = device::to_float(packed.values[i]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kLaneFeatures; ++i) {
    to[i] = first + i < count ? device::to_float(row[(first + i) * stride]) : 0.0f;
  }
}

// Operands of step 0 or 1 from a lane's features of its two rows (of a 16 x 16 block), in pieces.
template <int Pieces>
__device__ void feature_fragment(uint32_t (&a)[Pieces][4], const float (&upper)[kLaneFeatures],
                                 const float (&lower)[kLaneFeatures], int step) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t pieces[2][Pieces];
    device::split_bf16(pieces[0], upper[4 * step + 2 * half], upper[4 * step + 2 * half + 1]);
    device::split_bf16(pieces[1], lower[4 * step + 2 * half], lower[4 * step + 2 * half + 1]);
#pragma unroll
    for (int i = 0; i < Pieces; ++i) {
      a[i][2 * half] = pieces[0][i];
      a[i][2 * half + 1] = pieces[1][i];
    }
  }
}

// First of the 4 neighbouring features that a lane holds of the other operand in a step, counted over all
// blocks of features.
__device__ inline int fragment_feature(int step, int lane) {
  return step / 2 * kFeatureBlock + lane % 4 * kLaneFeatures + step % 2 * 4;
}

}  // namespace hax
