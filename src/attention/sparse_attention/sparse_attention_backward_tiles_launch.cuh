// What the launches of backward share.
#pragma once

#include <cstdlib>

#include "attention/sparse_attention/sparse_attention_kernel_backward_rows.cuh"
#include "core/dispatch.hpp"
#include "device/launch.cuh"

namespace hax::sparse_attention {

// Kernels for activations of 16 bits.
enum class TilePass {
  dense,
  stretch,
  stretch_keys,
  stretch_queries,
  lookup_keys,
  lookup_queries,
  direct_keys
};
// Launches one; false where the GPU hasn't the shared memory.
template <class T>  // sparse_attention_backward_tiles_*.cu
bool launch_tiles(const device::Launcher&, const BackwardParams&, TilePass, BackwardLaunch);

// Of tokens, so that bytes are counted in 32 bits.
inline constexpr int64_t kLongestVectorStride = int64_t{1} << 28;

template <class T>
BackwardAccess access_of(const BackwardParams& p) {
  const auto rows_in_vectors = [](const Tensor& tensor) {
    return device::moves_in_vectors<device::kVectorElements<T>>(tensor) &&
           std::abs(tensor.stride[1]) <= kLongestVectorStride;
  };
  return {rows_in_vectors(p.q),   rows_in_vectors(p.k),  rows_in_vectors(p.v),
          rows_in_vectors(p.d_o), rows_in_vectors(p.dq), rows_in_vectors(p.dk),
          rows_in_vectors(p.dv)};
}

// Calls f with the first shape that takes the widths, or the last one.
template <class First, class... Rest, class F>
void dispatch_shape(int64_t d_qk, int64_t d_v, F&& f) {
  if constexpr (sizeof...(Rest) > 0) {
    if (d_qk > First::kQk || d_v > First::kV) return dispatch_shape<Rest...>(d_qk, d_v, f);
  }
  f(TypeTag<First>{});
}

// Whether the kernel itself sums delta: that of the window alone, where no query passes more than twice.
template <class T>
bool sums_delta_itself(const BackwardParams& p, const CudaBackwardPlan& plan) {
  constexpr int V = device::kVectorElements<T>;
  // The longest window in which a tile's last key serves no query behind the next tile.
  constexpr int64_t kTwoTiles = 65;
  return plan.dense_tiles && p.pattern.bits == HAX_PATTERN_SLIDING_WINDOW &&
         p.pattern.window <= kTwoTiles && p.group() == 1 && device::moves_in_vectors<V>(p.o) &&
         std::abs(p.o.stride[1]) <= kLongestVectorStride;
}

}  // namespace hax::sparse_attention
