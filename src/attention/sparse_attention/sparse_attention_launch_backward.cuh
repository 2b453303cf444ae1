// Backward's launches for one activation type; each type has a .cu file of its own.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward.cuh"
#include "device/launch.cuh"
#include "core/dispatch.hpp"
#include "core/integer.hpp"

namespace hax::sparse_attention {

template <class T>
BackwardAccess access_of(const BackwardParams& p) {
  constexpr int V = device::kVectorElements<T>;
  return {device::moves_in_vectors<V>(p.q),   device::moves_in_vectors<V>(p.k),
          device::moves_in_vectors<V>(p.v),   device::moves_in_vectors<V>(p.d_o),
          device::moves_in_vectors<V>(p.dq),  device::moves_in_vectors<V>(p.dk),
          device::moves_in_vectors<V>(p.dv)};
}

template <class S>
void launch_tiles(const device::Launcher& launch, const BackwardParams& p,
                  const BackwardLaunch& common) {
  constexpr Tiling tiling{S::kStay};
  const int64_t places = p.sequences.batch * tiling.places(p.sequences);
  if (p.dk || p.dv) {
    launch(keys_kernel<S>, places * p.k_heads, S::kThreads, sizeof(BackwardShared<S>), p, common);
  }
  if (p.dq) {
    launch(queries_kernel<S>, places * p.q_heads, S::kThreads, sizeof(BackwardShared<S>), p,
           common);
  }
}

// Calls f with the first shape that takes the widths.
template <class First, class... Rest, class F>
void dispatch_shape(int64_t d_qk, int64_t d_v, F&& f) {
  if constexpr (sizeof...(Rest) > 0) {
    if (d_qk > First::kQk || d_v > First::kV) return dispatch_shape<Rest...>(d_qk, d_v, f);
  }
  f(TypeTag<First>{});
}

template <class T>
void launch_backward(const BackwardParams& p, const CudaBackwardPlan& plan, void* stream) {
  const device::Launcher launch(p.device, stream, Backward::name);
  const BackwardAccess access = access_of<T>(p);
  const bool o_vectors = access.d_o && device::moves_in_vectors<device::kVectorElements<T>>(p.o);
  launch(delta_kernel<T>, ceil_div(p.sequences.batch * p.sequences.length * p.q_heads * 8, kDeltaThreads),
         kDeltaThreads, 0, p, plan, o_vectors);
  if (p.pattern.key_order) {
    launch(rank_kernel, ceil_div(p.sequences.batch * p.sequences.length * p.k_heads, kDeltaThreads),
           kDeltaThreads, 0, p, plan);
  }
  const BackwardLaunch common{access,
                              p.pattern.key_order ? PairRule::either : PairRule::own, plan};
  const auto run = [&](auto shape) {
    launch_tiles<typename decltype(shape)::type>(launch, p, common);
  };
  if constexpr (type_of<T> == Type::fp32) {
    dispatch_shape<BackwardShape<T, 64, 128, 4, 1, 32, 1>, BackwardShape<T, 256, 256, 1, 4, 16, 1>>(
        p.d_qk, p.d_v, run);
  } else {
    dispatch_shape<BackwardShape<T, 32, 128, 4, 1, 64, 3>, BackwardShape<T, 64, 128, 4, 1, 64, 3>,
                   BackwardShape<T, 128, 128, 4, 1, 64, 2>,
                   BackwardShape<T, 256, 256, 2, 2, 32, 2>>(p.d_qk, p.d_v, run);
  }
}

}  // namespace hax::sparse_attention
