// Launches of backward's kernels for activations of 16 bits; each type has a .cu file of its own.
#pragma once

#include "attention/sparse_attention/sparse_attention_backward_tiles_launch.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_dense.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_lists.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_lookup.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_stretch.cuh"

namespace hax::sparse_attention {

template <class S>
bool launch_tiles_of(const device::Launcher& launch, const BackwardParams& p, TilePass kind,
                     BackwardLaunch pass) {
  const bool keys = p.dk || p.dv;
  const auto run = [&](auto kernel, int64_t heads, int64_t tile, size_t bytes) {
    if (bytes > launch.shared_memory()) return false;
    const int64_t places = Tiling{tile}.places(p.sequences);
    pass.places = static_cast<int32_t>(places);
    launch(kernel, p.sequences.batch * heads * places, kTileThreads, bytes, p, pass);
    return true;
  };
  switch (kind) {
    case TilePass::dense: return run(dense_kernel<S>, p.k_heads, kTileRows, sizeof(PairShared<S>));
    case TilePass::stretch:
      if constexpr (S::kQk <= kStretchWidth) {
        return run(stretch_kernel<S>, p.k_heads, int64_t{1} << pass.plan.stretch_log2,
                   sizeof(StretchShared<S>));
      }
      return false;
    case TilePass::stretch_keys:
      return !keys || run(stretch_keys_kernel<S>, p.k_heads, int64_t{1} << pass.plan.stretch_log2,
                          sizeof(ListShared<S>));
    case TilePass::stretch_queries:
      return !p.dq || run(stretch_queries_kernel<S>, p.q_heads, pass.plan.query_stretch,
                          sizeof(ListShared<S>));
    case TilePass::lookup_keys:
      return !keys || run(lookup_keys_kernel<S>, p.k_heads, kTileRows, sizeof(LookupShared<S>));
    case TilePass::lookup_queries:
      return !p.dq || run(lookup_queries_kernel<S>, p.q_heads, kTileRows, sizeof(LookupShared<S>));
    case TilePass::direct_keys:
      return !keys || run(direct_keys_kernel<S>, p.k_heads, kDirectKeys, sizeof(ListShared<S>));
  }
  return false;
}

template <class T>
bool launch_tiles(const device::Launcher& launch, const BackwardParams& p, TilePass kind,
                  BackwardLaunch pass) {
  bool launched = false;
  dispatch_shape<PairShape<T, 32, 128>, PairShape<T, 64, 128>, PairShape<T, 128, 128>>(
      p.d_qk, p.d_v, [&](auto shape) {
        launched = launch_tiles_of<typename decltype(shape)::type>(launch, p, kind, pass);
      });
  return launched;
}

}  // namespace hax::sparse_attention
