// Keys of lists meet the queries of their spans, and the other way round; for activations of 16 bits. The lists are those
// of stretches that the kernel for stretches leaves, and of direct keys.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_span_block.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_walk.cuh"

namespace hax::sparse_attention {

// Entries of the list of direct keys that a block takes: mostly there are none, and blocks cost time.
inline constexpr int64_t kDirectKeys = 8 * kTileRows;

template <class S>
struct ListShared : PairShared<S> {
  WalkShared<kTileThreads> walk;
};

template <class S>
class ListBlock : public SpanBlock<S, ListShared<S>> {
 public:
  using Shared = ListShared<S>;
  using Base = SpanBlock<S, Shared>;
  using typename Base::Tiles;

  __device__ ListBlock(const BackwardParams& p, const BackwardLaunch& launch, const TileRange& tile,
                       int64_t head, Shared& shared)
      : Base(p, launch, tile, head, shared),
        walk_(shared.walk, p, launch.plan, tile, head, this->view_) {}

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
    const TileMark own[2] = {finish_key(key_mark(list, count, Tiles::own_row())),
                             finish_key(key_mark(list, count, Tiles::own_row() + 8))};
    int g = 0;
    int32_t x = next_query(list, count, first_);
    const auto fetch = [&](int slot, RawMark& mark) {
      load_queries(slot, g, x, last_);
      const auto n = static_cast<int>(threadIdx.x);
      if (n < kTileRows) mark = query_mark(g, x + n, last_);
    };
    const auto finish = [&](const RawMark& query) { return finish_query(query); };
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
    if (!Tiles::finite(sums)) {
      return Base::write_exact_keys(p_, launch_, tile_, head_, list, count, first_, last_);
    }
    if (launch_.pass == BackwardPass::direct) {
      const int32_t tokens[2] = {own[0].position, own[1].position};
      return this->write_keys(sums, p_.scale, tokens, launch_.add);
    }
    this->write_shares(sums, own, first_);
  }

  // dq of the stretch.
  __device__ void keep_queries(int g) {
    walk_.start(first_, last_, false);
    listed_ = walk_.fill();
    whole_ = walk_.done();
    for (int32_t x = first_; x < last_; x += kTileRows) pass_lists(g, x, min(x + kTileRows, last_));
  }

 private:
  using Base::finish_key, Base::finish_query;
  using Base::first_, Base::last_;
  using Base::load_keys, Base::load_queries, Base::key_mark, Base::query_mark;
  using Base::p_, Base::launch_, Base::tile_, Base::view_, Base::head_, Base::shared_, Base::tiles_;

  // The first query at or behind x that one of the keys may serve; all warps agree.
  __device__ int32_t next_query(const int32_t* list, int count, int32_t x) const {
    int32_t least = last_;
    for (int n = static_cast<int>(threadIdx.x % 32); n < count; n += 32) {
      const int32_t j = list[n];
      if (view_.reach(j) > x) least = min(least, max(j, x));
    }
    return __reduce_min_sync(0xffffffffu, least);
  }

  // The listed keys that may serve queries [x, end) pass by.
  __device__ void pass_lists(int g, int32_t x, int32_t end) {
    if (!whole_) {
      walk_.start(x, end, false);
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
        if (next_query(shared_.walk.keys + group, min(listed_ - group, kTileRows), x) < end) {
          return true;
        }
      }
    };
    const auto fetch = [&](int slot, RawMark& mark) {
      const int32_t* const list = shared_.walk.keys + group;
      load_keys(slot, list, listed_ - group);
      const auto n = static_cast<int>(threadIdx.x);
      if (n < kTileRows) mark = key_mark(list, listed_ - group, n);
    };
    const TileMark own[2] = {finish_query(query_mark(g, x + Tiles::own_row(), end)),
                             finish_query(query_mark(g, x + Tiles::own_row() + 8, end))};
    typename Tiles::QuerySums dq;
    Tiles::clear(dq);
    if (find()) {
      load_queries(1, g, x, end);
      RawMark mark;
      fetch(0, mark);
      tiles_.store(0, finish_key(mark));
      const auto next = [&](int slot, RawMark& coming) {
        if (!find()) return Coming::nothing;
        fetch(slot, coming);
        return Coming::marked;
      };
      tiles_.keep_queries(dq, own, 1, 0, 2, 0, next,
                          [&](const RawMark& key) { return finish_key(key); });
    }
    if (!Tiles::finite(dq)) {
      return Base::write_exact_queries(p_, launch_, tile_, head_, this->query_head(g), x, end);
    }
    const int32_t tokens[2] = {own[0].position, own[1].position};
    this->write_queries(g, dq, tokens, launch_.add);
  }

  KeyWalkInStretch<kTileThreads> walk_;
  int listed_ = 0;      // keys of the list at hand
  bool whole_ = false;  // it has all of them
};

template <class S>
__global__ void __launch_bounds__(kTileThreads, 2)
    stretch_keys_kernel(const __grid_constant__ BackwardParams p,
                        const __grid_constant__ BackwardLaunch launch) {
  using Shared = ListShared<S>;
  for_tile<Shared>(p, launch, p.k_heads, int64_t{1} << launch.plan.stretch_log2,
                   [&](const TileRange& tile, int64_t head, Shared& shared) {
                     if (!is_apart(p, launch.plan, tile, head)) return;
                     ListBlock<S>(p, launch, tile, head, shared).keep_keys();
                   });
}
template <class S>
__global__ void __launch_bounds__(kTileThreads, 2)
    stretch_queries_kernel(const __grid_constant__ BackwardParams p,
                           const __grid_constant__ BackwardLaunch launch) {
  using Shared = ListShared<S>;
  for_tile<Shared>(p, launch, p.q_heads, launch.plan.query_stretch,
                   [&](const TileRange& tile, int64_t h, Shared& shared) {
                     const int64_t head = h / static_cast<uint32_t>(launch.group);
                     if (!is_apart(p, launch.plan, tile, head)) return;
                     ListBlock<S>(p, launch, tile, head, shared)
                         .keep_queries(static_cast<int>(h - head * launch.group));
                   });
}
template <class S>
__global__ void __launch_bounds__(kTileThreads, 2)
    direct_keys_kernel(const __grid_constant__ BackwardParams p,
                       const __grid_constant__ BackwardLaunch launch) {
  using Shared = ListShared<S>;
  for_tile<Shared>(
      p, launch, p.k_heads, kDirectKeys, [&](TileRange tile, int64_t head, Shared& shared) {
        const int64_t count =
            min(int64_t{launch.plan.direct_count[tile.s * p.k_heads + head]}, tile.last);
        const int32_t* const list = launch.plan.direct_keys + tile.range.begin +
                                    (tile.range.row * p.k_heads + head) * p.sequences.length;
        int64_t at = tile.first;
        if (at >= count) return;
        tile.first = 0;
        tile.last = tile.range.length;
        ListBlock<S> block(p, launch, tile, head, shared);
        for (; at < count; at += kTileRows) {
          block.keep_group(list + at, static_cast<int>(min(count - at, int64_t{kTileRows})));
          __syncthreads();
        }
      });
}

}  // namespace hax::sparse_attention
