// What the blocks of backward for activations of 16 bits have in common.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_exact.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_pairs.cuh"

namespace hax::sparse_attention {

// A block's tile of one sequence and key head.
template <class S, class Shared_, PairRule... kRules>
class PairBlock {
 public:
  using T = typename S::T;
  using Shared = Shared_;
  using Tiles = PairTiles<S, kRules...>;

 protected:
  __device__ PairBlock(const BackwardParams& p, const BackwardLaunch& launch, const TileRange& tile,
                       int64_t head, Shared& shared)
      : p_(p),
        launch_(launch),
        tile_(tile),
        view_(view_of(p, launch.plan, tile.range, head)),
        head_(head),
        shared_(shared),
        tiles_(shared, p.scale, launch.rule) {
    tiles_.set_rows(p, launch, tile.range, head);
  }

  __device__ int64_t query_head(int g) const { return head_ * launch_.group + g; }
  __device__ TileMark finish_query(const RawMark& raw) const {
    return sparse_attention::finish_query(raw, view_.length);
  }
  __device__ TileMark finish_key(const RawMark& raw) const {
    return sparse_attention::finish_key(raw, view_);
  }

  // The rows of two tokens, none where one is negative.
  __device__ void write_keys(const typename Tiles::KeySums& sums, float dk_scale,
                             const int32_t (&tokens)[2], bool add) const {
    if (p_.dk) {
      store_sums(outputs(p_.dk, head_, launch_.access.dk), sums.dk, dk_scale, tokens, add);
    }
    if (p_.dv) store_sums(outputs(p_.dv, head_, launch_.access.dv), sums.dv, 1.0f, tokens, add);
  }
  __device__ void write_queries(int g, const typename Tiles::QuerySums& dq,
                                const int32_t (&tokens)[2], bool add) const {
    if (!p_.dq) return;
    store_sums(outputs(p_.dq, query_head(g), launch_.access.dq), dq, p_.scale, tokens, add);
  }

  const BackwardParams& p_;
  const BackwardLaunch& launch_;
  const TileRange& tile_;
  const PatternView view_;
  const int64_t head_;
  Shared& shared_;
  const Tiles tiles_;

 private:
  __device__ HeadRows<T> outputs(const Tensor& tensor, int64_t h, bool vectors) const {
    return {tensor.at<T>(tile_.range.row, tile_.range.begin, h), tensor, vectors};
  }
};

// Calls run(tile, head, shared) for a block's tile of so many tokens, if it has one. Blocks belong to key heads, or to query
// heads.
template <class Shared, class F>
__device__ __forceinline__ void for_tile(const BackwardParams& p, const BackwardLaunch& launch,
                                         int64_t heads, int64_t tokens, F&& run) {
  extern __shared__ __align__(1024) char memory[];
  const BlockPlace at(blockIdx.x, heads, launch.places);
  const TileRange tile = find_tile(p.sequences, Tiling{tokens}, at.row, at.place);
  if (tile.first >= tile.last || !launch.takes(tile.range.length)) return;
  run(tile, at.head, *reinterpret_cast<Shared*>(memory));
}

}  // namespace hax::sparse_attention
