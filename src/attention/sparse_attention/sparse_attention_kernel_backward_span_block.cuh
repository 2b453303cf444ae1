// Keys meet the queries of their spans: what the kernels for stretches and for lists have in common; for activations of
// 16 bits.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_block.cuh"

namespace hax::sparse_attention {

// A stretch of queries, and keys of lists.
template <class S, class Shared>
class SpanBlock : public PairBlock<S, Shared, PairRule::own, PairRule::own_not_lsh> {
 public:
  using Base = PairBlock<S, Shared, PairRule::own, PairRule::own_not_lsh>;
  using typename Base::T, typename Base::Tiles;

 protected:
  using Base::p_, Base::launch_, Base::tile_, Base::view_, Base::head_, Base::tiles_;

  __device__ SpanBlock(const BackwardParams& p, const BackwardLaunch& launch, const TileRange& tile,
                       int64_t head, Shared& shared)
      : Base(p, launch, tile, head, shared),
        first_(static_cast<int32_t>(tile.first)),
        last_(static_cast<int32_t>(tile.last)) {}

  __device__ void load_keys(int slot, const int32_t* list, int count) const {
    tiles_.load(slot, tiles_.rows().keys(p_, launch_), tiles_.rows().values(p_, launch_), count,
                [&](int row) { return list[row]; });
  }
  // Queries x and up, less than `end`.
  __device__ void load_queries(int slot, int g, int32_t x, int32_t end) const {
    tiles_.load(slot, tiles_.rows().queries(p_, launch_, g),
                tiles_.rows().gradients(p_, launch_, g), end - x, [&](int row) { return x + row; });
  }
  __device__ RawMark key_mark(const int32_t* list, int count, int n) const {
    return read_raw_key(view_, n < count ? list[n] : -1);
  }
  __device__ RawMark query_mark(int g, int32_t i, int32_t end) const {
    if (i >= end) return {};
    return tiles_.rows().mark(p_, launch_, g, i, launch_.rule == PairRule::own_not_lsh);
  }

  // The keys' sums over queries that begin at x, to their rows of the stretch; keys that served earlier ones have written
  // theirs already.
  __device__ void write_shares(const typename Tiles::KeySums& sums, const TileMark (&own)[2],
                               int32_t x) const {
    const int column = static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* row = row_of(p_, launch_.plan, tile_, head_, own[half].position);
      if (!row) continue;
      row += column;
      const bool add = max(own[half].position, first_) < x;
      store_row(row, sums.dk, half, p_.scale, static_cast<int>(p_.d_qk) - column, add);
      store_row(row + launch_.plan.v_column, sums.dv, half, 1.0f, static_cast<int>(p_.d_v) - column,
                add);
    }
  }

  // Both pair by pair: of keys that serve queries [x, end), and of those queries.
  static __device__ __noinline__ void write_exact_keys(const BackwardParams& p,
                                                       const BackwardLaunch& launch, TileRange tile,
                                                       int64_t head, const int32_t* list, int count,
                                                       int32_t x, int32_t end) {
    const PatternView view = view_of(p, launch.plan, tile.range, head);
    for (int n = static_cast<int>(threadIdx.x / 32); n < count; n += kTileThreads / 32) {
      ExactSums<T, S::kQk, S::kV> sums(p, tile.range, view, launch.rule);
      const int32_t j = list[n], last = min(view.reach(j), end);
      for (int64_t h = head * p.group(); h < (head + 1) * p.group(); ++h) {
        for (int32_t i = max(j, x); i < last; ++i) sums.add_to_key(i, h, j, head);
      }
      if (launch.pass == BackwardPass::direct) {
        sums.write_key(j, head, launch.plan, KeyRows(), launch.add);
      } else if (float* const row = row_of(p, launch.plan, tile, head, j)) {
        sums.write_row(row, launch.plan, max(j, static_cast<int32_t>(tile.first)) < x);
      }
    }
    __syncthreads();
  }
  static __device__ __noinline__ void write_exact_queries(const BackwardParams& p,
                                                          const BackwardLaunch& launch,
                                                          TileRange tile, int64_t head, int64_t h,
                                                          int32_t x, int32_t end) {
    const PatternView view = view_of(p, launch.plan, tile.range, head);
    const int32_t* const reaches =
        launch.plan.chunk_reach + reach_place(p, tile.range.row * p.k_heads + head, tile);
    const auto lane = static_cast<int>(threadIdx.x % 32);
    for (int32_t i = x + static_cast<int32_t>(threadIdx.x / 32); i < end; i += kTileThreads / 32) {
      ExactSums<T, S::kQk, S::kV> sums(p, tile.range, view, launch.rule);
      for (int32_t base = 0; base <= i; base += 32) {
        if (reaches[base / kChunkKeys] <= i) {  // no key of the chunk
          base += static_cast<int32_t>(kChunkKeys) - 32;
          continue;
        }
        const int32_t j = base + lane;
        uint32_t votes = __ballot_sync(0xffffffffu, j <= i && view.reach(j) > i);
        for (; votes != 0; votes &= votes - 1) {
          sums.add_to_query(i, h, base + __ffs(static_cast<int>(votes)) - 1, head);
        }
      }
      sums.write_query(i, h, launch.add);
    }
    __syncthreads();
  }

  const int32_t first_, last_;  // the stretch

 private:
  // A key's row for the stretch; null without one.
  static __device__ float* row_of(const BackwardParams& p, const CudaBackwardPlan& plan,
                                  const TileRange& tile, int64_t head, int32_t j) {
    if (j < 0 || !plan.first_row) return nullptr;
    const int64_t key_row = tile.range.row * p.k_heads + head;
    const int32_t first_row = plan.first_row[key_row * p.sequences.length + tile.range.begin + j];
    if (first_row < 0) return nullptr;
    const auto number =
        static_cast<int32_t>((tile.first >> plan.stretch_log2) - (int64_t{j} >> plan.stretch_log2));
    return plan.rows + (key_row * plan.row_count + first_row + number) * plan.row_width;
  }
  template <int kBlocks>
  __device__ static void store_row(float* to, const float (&sums)[kBlocks][4], int half,
                                   float scale, int columns, bool add) {
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      if (n * 8 >= columns) continue;
      auto* const at = reinterpret_cast<float2*>(to + n * 8);
      const float2 held = add ? *at : float2{};
      *at = {held.x + sums[n][2 * half] * scale, held.y + sums[n][2 * half + 1] * scale};
    }
  }
};

}  // namespace hax::sparse_attention
