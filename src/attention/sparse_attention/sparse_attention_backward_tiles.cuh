// Launches of backward's kernels for activations of 16 bits; each type has a .cu file of its own.
#pragma once

#include "attention/sparse_attention/sparse_attention_backward_tiles_launch.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_dense.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_lookup.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_stretch.cuh"

namespace hax::sparse_attention {

template <class S>
void launch_tiles_of(const device::Launcher& launch, const BackwardParams& p, TilePass kind,
                     BackwardLaunch pass) {
  const auto run = [&](auto kernel, int64_t heads, int64_t tile, size_t bytes) {
    const int64_t places = Tiling{tile}.places(p.sequences);
    pass.places = static_cast<int32_t>(places);
    launch(kernel, p.sequences.batch * heads * places, kTileThreads, bytes, p, pass);
  };
  const bool keys = p.dk || p.dv;
  switch (kind) {
    case TilePass::dense: return run(dense_kernel<S>, p.k_heads, kTileRows, sizeof(PairShared<S>));
    case TilePass::lookup:
      if (keys) run(lookup_keys_kernel<S>, p.k_heads, kTileRows, sizeof(LookupShared<S>));
      if (p.dq) run(lookup_queries_kernel<S>, p.q_heads, kTileRows, sizeof(LookupShared<S>));
      return;
    case TilePass::stretch_keys:
      if (!keys) return;
      return run(stretch_keys_kernel<S>, p.k_heads, int64_t{1} << pass.plan.stretch_log2,
                 sizeof(StretchShared<S>));
    case TilePass::stretch_queries:
      if (!p.dq) return;
      return run(stretch_queries_kernel<S>, p.q_heads, pass.plan.query_stretch,
                 sizeof(StretchShared<S>));
  }
}

template <class T>
void launch_tiles(const device::Launcher& launch, const BackwardParams& p, TilePass kind,
                  BackwardLaunch pass) {
  dispatch_shape<PairShape<T, 32, 128>, PairShape<T, 64, 128>, PairShape<T, 128, 128>>(
      p.d_qk, p.d_v,
      [&](auto shape) { launch_tiles_of<typename decltype(shape)::type>(launch, p, kind, pass); });
}

}  // namespace hax::sparse_attention
