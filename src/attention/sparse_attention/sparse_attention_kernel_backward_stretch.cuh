// What keys' spans add, apart from LSH, in sequences too long to try all pairs; for activations of 16 bits. A block has
// a stretch of queries and meets the keys whose spans touch it.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_exact.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_pairs.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_walk.cuh"

namespace hax::sparse_attention {

template <class S>
struct StretchShared : PairShared<S> {
  WalkShared<kTileThreads> walk;
};

template <class S>
class StretchBlock {
 public:
  using T = typename S::T;
  using Tiles = PairTiles<S, PairRule::own, PairRule::own_not_lsh>;

  __device__ StretchBlock(const BackwardParams& p, const BackwardLaunch& launch,
                          const TileRange& tile, int64_t head, StretchShared<S>& shared)
      : p_(p),
        launch_(launch),
        tile_(tile),
        view_(view_of(p, launch.plan, tile.range, head)),
        head_(head),
        shared_(shared),
        tiles_(shared, p.scale, launch.rule),
        first_(static_cast<int32_t>(tile.first)),
        last_(static_cast<int32_t>(tile.last)),
        walk_(shared.walk, view_,
              launch.plan.chunk_reach + reach_place(p, tile.range.row * p.k_heads + head, tile),
              launch.plan.first_row
                  ? launch.plan.first_row +
                        (tile.range.row * p.k_heads + head) * p.sequences.length + tile.range.begin
                  : nullptr) {
    tiles_.set_rows(p, launch, tile.range, head);
  }

  // The stretch's shares of dk and dv, for keys that have rows.
  __device__ void keep_keys() {
    walk_.start(first_, last_, true);
    for (int listed = walk_.fill(); listed > 0; listed = walk_.fill()) {
      for (int group = 0; group < listed; group += kTileRows) {
        keep_group(shared_.walk.keys + group, min(listed - group, kTileRows));
      }
    }
  }

  // dk and dv of up to a tile of keys: shares of the stretch, or all of it where the pass is direct.
  __device__ void keep_group(const int32_t* list, int count) {
    load_keys(0, list, count);
    const TileMark own[2] = {finish(key_mark(list, count, Tiles::own_row())),
                             finish(key_mark(list, count, Tiles::own_row() + 8))};
    int g = 0;
    int32_t x = next_query(list, count, first_);
    const auto fetch = [&](int slot, RawMark& mark) {
      load_queries(slot, g, x);
      const auto n = static_cast<int>(threadIdx.x);
      if (n < kTileRows) mark = query_mark(g, x + n);
    };
    const auto finish = [&](const RawMark& query) { return finish_query(query, view_.length); };
    RawMark mark;
    fetch(1, mark);
    tiles_.store(0, finish(mark));
    typename Tiles::KeySums sums;
    const auto next = [&](int slot, RawMark& coming) {
      x = next_query(list, count, x + kTileRows);
      if (x >= last_) {
        if (++g == launch_.group) return Coming::nothing;
        x = next_query(list, count, first_);
      }
      fetch(slot, coming);
      return Coming::marked;
    };
    tiles_.keep_keys(sums, own, next, finish);
    if (!Tiles::finite(sums)) return write_exact_keys(p_, launch_, tile_, head_, list, count);
    if (launch_.pass == BackwardPass::direct) {
      const int32_t tokens[2] = {own[0].position, own[1].position};
      if (p_.dk) {
        store_sums(outputs(p_.dk, head_, launch_.access.dk), sums.dk, p_.scale, tokens,
                   launch_.add);
      }
      if (p_.dv) {
        store_sums(outputs(p_.dv, head_, launch_.access.dv), sums.dv, 1.0f, tokens, launch_.add);
      }
      return;
    }
    const int column = static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (own[half].position < 0) continue;
      float* const row = row_of(p_, launch_.plan, tile_, head_, own[half].position) + column;
      store_row(row, sums.dk, half, p_.scale, static_cast<int>(p_.d_qk) - column);
      store_row(row + launch_.plan.v_column, sums.dv, half, 1.0f,
                static_cast<int>(p_.d_v) - column);
    }
  }

  // dq of the stretch.
  __device__ void keep_queries(int g) {
    walk_.start(first_, last_, false);
    listed_ = walk_.fill();
    whole_ = walk_.done();
    if (listed_ == 0 && launch_.add) return;
    if (whole_ && listed_ <= kTileRows) return pass_once(g);
    for (int32_t x = first_; x < last_; x += kTileRows) pass_lists(g, x);
  }

 private:
  __device__ HeadRows<T> outputs(const Tensor& tensor, int64_t h, bool vectors) const {
    return {tensor.at<T>(tile_.range.row, tile_.range.begin, h), tensor, vectors};
  }
  __device__ void load_keys(int slot, const int32_t* list, int count) const {
    tiles_.load(slot, tiles_.rows().keys(p_, launch_), tiles_.rows().values(p_, launch_), count,
                [&](int row) { return list[row]; });
  }
  __device__ void load_queries(int slot, int g, int32_t x) const {
    tiles_.load(slot, tiles_.rows().queries(p_, launch_, g),
                tiles_.rows().gradients(p_, launch_, g), last_ - x,
                [&](int row) { return x + row; });
  }
  __device__ RawMark key_mark(const int32_t* list, int count, int n) const {
    return read_raw_key(view_, n < count ? list[n] : -1);
  }
  __device__ TileMark finish(const RawMark& key) const { return finish_key(key, view_); }
  __device__ RawMark query_mark(int g, int32_t i) const {
    if (i >= last_) return {};
    return tiles_.rows().mark(p_, launch_, g, i, launch_.rule == PairRule::own_not_lsh);
  }

  // The first query at or behind x that one of the keys may serve; all warps agree.
  __device__ int32_t next_query(const int32_t* list, int count, int32_t x) const {
    int32_t least = last_;
    for (int n = static_cast<int>(threadIdx.x % 32); n < count; n += 32) {
      const int32_t j = list[n];
      if (view_.reach(j) > x) least = min(least, max(j, x));
    }
    return __reduce_min_sync(0xffffffffu, least);
  }

  static __device__ float* row_of(const BackwardParams& p, const CudaBackwardPlan& plan,
                                  const TileRange& tile, int64_t head, int32_t j) {
    const int64_t key_row = tile.range.row * p.k_heads + head;
    const int32_t first_row = plan.first_row[key_row * p.sequences.length + tile.range.begin + j];
    const auto number =
        static_cast<int32_t>((tile.first >> plan.stretch_log2) - (int64_t{j} >> plan.stretch_log2));
    return plan.rows + (key_row * plan.row_count + first_row + number) * plan.row_width;
  }
  template <int kBlocks>
  __device__ static void store_row(float* to, const float (&sums)[kBlocks][4], int half,
                                   float scale, int columns) {
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      if (n * 8 >= columns) continue;
      *reinterpret_cast<float2*>(to + n * 8) = {sums[n][2 * half] * scale,
                                                sums[n][2 * half + 1] * scale};
    }
  }

  __device__ void write_queries(int g, int32_t x, const TileMark (&own)[2],
                                const typename Tiles::QuerySums& dq) {
    const int64_t h = head_ * launch_.group + g;
    if (!Tiles::finite(dq)) return write_exact_queries(p_, launch_, tile_, head_, h, x);
    const int32_t tokens[2] = {own[0].position, own[1].position};
    store_sums(outputs(p_.dq, h, launch_.access.dq), dq, p_.scale, tokens, launch_.add);
  }

  // All keys fit one tile: the stretch's queries come one tile after the other.
  __device__ void pass_once(int g) {
    load_keys(0, shared_.walk.keys, listed_);
    load_queries(1, g, first_);
    tiles_.store(0, finish(key_mark(shared_.walk.keys, listed_, static_cast<int>(threadIdx.x))));
    RawMark raw[2];
    const auto fetch_own = [&](int32_t x) {
      raw[0] = query_mark(g, x + Tiles::own_row());
      raw[1] = query_mark(g, x + Tiles::own_row() + 8);
    };
    fetch_own(first_);
    int slot = 1;
    for (int32_t x = first_; x < last_; x += kTileRows, slot = 3 - slot) {
      const TileMark own[2] = {finish_query(raw[0], view_.length),
                               finish_query(raw[1], view_.length)};
      Tiles::await_copies();
      if (x + kTileRows < last_) {
        load_queries(3 - slot, g, x + kTileRows);
        fetch_own(x + kTileRows);
      }
      typename Tiles::QuerySums dq;
      Tiles::clear(dq);
      tiles_.add_keys(dq, own, slot, 0, 0);
      write_queries(g, x, own, dq);
    }
  }

  // The listed keys that may serve queries x and up pass by.
  __device__ void pass_lists(int g, int32_t x) {
    if (!whole_) {
      walk_.start(x, min(x + kTileRows, last_), false);
      listed_ = walk_.fill();
    }
    int group = -kTileRows;
    const auto find = [&] {
      for (group += kTileRows;; group += kTileRows) {
        if (group >= listed_) {
          if (whole_) return false;
          listed_ = walk_.fill();
          group = 0;
          if (listed_ == 0) return false;
        }
        const int32_t from =
            next_query(shared_.walk.keys + group, min(listed_ - group, kTileRows), x);
        if (from < x + kTileRows) return true;
      }
    };
    const auto fetch = [&](int slot, RawMark& mark) {
      const int32_t* const list = shared_.walk.keys + group;
      load_keys(slot, list, listed_ - group);
      const auto n = static_cast<int>(threadIdx.x);
      if (n < kTileRows) mark = key_mark(list, listed_ - group, n);
    };
    const TileMark own[2] = {finish_query(query_mark(g, x + Tiles::own_row()), view_.length),
                             finish_query(query_mark(g, x + Tiles::own_row() + 8), view_.length)};
    typename Tiles::QuerySums dq;
    Tiles::clear(dq);
    if (find()) {
      load_queries(1, g, x);
      RawMark mark;
      fetch(0, mark);
      tiles_.store(0, finish(mark));
      const auto next = [&](int slot, RawMark& coming) {
        if (!find()) return Coming::nothing;
        fetch(slot, coming);
        return Coming::marked;
      };
      tiles_.keep_queries(dq, own, 1, 0, 2, 0, next,
                          [&](const RawMark& key) { return finish(key); });
    }
    write_queries(g, x, own, dq);
  }

  static __device__ __noinline__ void write_exact_keys(const BackwardParams& p,
                                                       const BackwardLaunch& launch, TileRange tile,
                                                       int64_t head, const int32_t* list,
                                                       int count) {
    const PatternView view = view_of(p, launch.plan, tile.range, head);
    for (int n = static_cast<int>(threadIdx.x / 32); n < count; n += kTileThreads / 32) {
      ExactSums<T, S::kQk, S::kV> sums(p, tile.range, view, launch.rule);
      const int32_t j = list[n], end = min(view.reach(j), static_cast<int32_t>(tile.last));
      for (int64_t h = head * p.group(); h < (head + 1) * p.group(); ++h) {
        for (int32_t i = max(j, static_cast<int32_t>(tile.first)); i < end; ++i) {
          sums.add_to_key(i, h, j, head);
        }
      }
      if (launch.pass == BackwardPass::direct) {
        sums.write_key(j, head, launch.plan, KeyRows(), launch.add);
      } else {
        sums.write_row(row_of(p, launch.plan, tile, head, j), launch.plan);
      }
    }
    __syncthreads();
  }
  // Queries x and up.
  static __device__ __noinline__ void write_exact_queries(const BackwardParams& p,
                                                          const BackwardLaunch& launch,
                                                          TileRange tile, int64_t head, int64_t h,
                                                          int32_t x) {
    const PatternView view = view_of(p, launch.plan, tile.range, head);
    const int32_t* const reaches =
        launch.plan.chunk_reach + reach_place(p, tile.range.row * p.k_heads + head, tile);
    const auto lane = static_cast<int>(threadIdx.x % 32);
    const int32_t end = min(x + kTileRows, static_cast<int32_t>(tile.last));
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

  const BackwardParams& p_;
  const BackwardLaunch& launch_;
  const TileRange& tile_;
  const PatternView view_;
  const int64_t head_;
  StretchShared<S>& shared_;
  const Tiles tiles_;
  const int32_t first_, last_;
  KeyWalkInStretch<kTileThreads> walk_;
  int listed_ = 0;      // keys of the list at hand
  bool whole_ = false;  // it has all keys of the stretch
};

template <class S>
__global__ void __launch_bounds__(kTileThreads, 2)
    stretch_keys_kernel(const __grid_constant__ BackwardParams p,
                        const __grid_constant__ BackwardLaunch launch) {
  extern __shared__ __align__(1024) char memory[];
  const Tiling tiling{int64_t{1} << launch.plan.stretch_log2};
  const BlockPlace at(blockIdx.x, p.k_heads, launch.places);
  const TileRange tile = find_tile(p.sequences, tiling, at.row, at.place);
  if (tile.first >= tile.last || !launch.takes(tile.range.length)) return;
  auto& shared = *reinterpret_cast<StretchShared<S>*>(memory);
  StretchBlock<S>(p, launch, tile, at.head, shared).keep_keys();
}
template <class S>
__global__ void __launch_bounds__(kTileThreads, 2)
    direct_keys_kernel(const __grid_constant__ BackwardParams p,
                       const __grid_constant__ BackwardLaunch launch) {
  extern __shared__ __align__(1024) char memory[];
  const BlockPlace at(blockIdx.x, p.k_heads, launch.places);
  TileRange tile = find_tile(p.sequences, Tiling{kTileRows}, at.row, at.place);
  if (tile.first >= tile.last || !launch.takes(tile.range.length)) return;
  const int64_t count = launch.plan.direct_count[tile.s * p.k_heads + at.head] - tile.first;
  if (count <= 0) return;
  const int32_t* const list = launch.plan.direct_keys +
                              (tile.range.row * p.k_heads + at.head) * p.sequences.length +
                              tile.range.begin + tile.first;
  tile.first = 0;
  tile.last = tile.range.length;
  auto& shared = *reinterpret_cast<StretchShared<S>*>(memory);
  StretchBlock<S>(p, launch, tile, at.head, shared)
      .keep_group(list, static_cast<int>(min(count, int64_t{kTileRows})));
}
template <class S>
__global__ void __launch_bounds__(kTileThreads, 2)
    stretch_queries_kernel(const __grid_constant__ BackwardParams p,
                           const __grid_constant__ BackwardLaunch launch) {
  extern __shared__ __align__(1024) char memory[];
  const BlockPlace at(blockIdx.x, p.q_heads, launch.places);
  const TileRange tile =
      find_tile(p.sequences, Tiling{launch.plan.query_stretch}, at.row, at.place);
  if (tile.first >= tile.last || !launch.takes(tile.range.length)) return;
  auto& shared = *reinterpret_cast<StretchShared<S>*>(memory);
  const int64_t head = at.head / static_cast<uint32_t>(launch.group);
  StretchBlock<S>(p, launch, tile, head, shared)
      .keep_queries(static_cast<int>(at.head - head * launch.group));
}

}  // namespace hax::sparse_attention
