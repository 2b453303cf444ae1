// LSH's part of backward for activations of 16 bits. Neighbours in key_order are looked up by queries that are
// neighbours in the order of `end`, so a tile of either meets about one and a half tiles of the other.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_bins.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_exact.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_pairs.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_spans.cuh"

namespace hax::sparse_attention {

template <class S>
struct LookupShared : PairShared<S> {
  int32_t begin[kTileRows], end[kTileRows];  // of the queries that stay
};

template <class S>
class LookupBlock {
 public:
  using T = typename S::T;
  using Tiles = PairTiles<S, PairRule::lsh>;

  __device__ LookupBlock(const BackwardParams& p, const BackwardLaunch& launch,
                         const TileRange& tile, int64_t head, LookupShared<S>& shared)
      : p_(p),
        launch_(launch),
        tile_(tile),
        view_(view_of(p, launch.plan, tile.range, head)),
        head_(head),
        shared_(shared),
        tiles_(shared, p.scale, PairRule::lsh) {
    tiles_.set_rows(p, launch, tile.range, head);
  }

  // dk and dv of the keys in a tile of places of key_order, and what their spans add to them.
  __device__ void keep_keys() const {
    const auto first = static_cast<int32_t>(tile_.first);
    load_keys(0, first);
    const auto own_key = [&](int half) { return key_at(first + Tiles::own_row() + 8 * half); };
    const TileMark own[2] = {own_key(0), own_key(1)};
    int g = 0;
    QueryInterval interval = queries_of(g);
    int32_t x = interval.begin;
    const auto find = [&] {  // the next queries' head
      while (x >= interval.end) {
        if (++g == launch_.group) return false;
        interval = queries_of(g);
        x = interval.begin;
      }
      return true;
    };
    const auto fetch = [&](int slot, RawMark& mark) {
      load_queries(slot, g, x, interval.end);
      mark = query_mark(g, x + static_cast<int>(threadIdx.x), interval.end);
    };
    typename Tiles::KeySums sums;
    Tiles::clear(sums.dk);
    Tiles::clear(sums.dv);
    if (find()) {
      const auto finish = [&](const RawMark& mark) { return finish_query(mark, view_.length); };
      RawMark mark;
      fetch(1, mark);
      tiles_.store(0, finish(mark));
      const auto next = [&](int slot, RawMark& coming) {
        x += kTileRows;
        if (!find()) return Coming::nothing;
        fetch(slot, coming);
        return Coming::marked;
      };
      tiles_.keep_keys(sums, own, next, finish);
    }
    if (!Tiles::finite(sums)) return write_exact_keys(p_, launch_, tile_, head_);
    multiply(sums.dk, p_.scale);
    const int32_t tokens[2] = {own[0].position, own[1].position};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      add_rows(sums, half, KeyRows(p_, launch_.plan, tile_.range, view_, head_, tokens[half]));
    }
    if (p_.dk) {
      store_sums(outputs(p_.dk, head_, launch_.access.dk), sums.dk, 1.0f, tokens, false);
    }
    if (p_.dv) {
      store_sums(outputs(p_.dv, head_, launch_.access.dv), sums.dv, 1.0f, tokens, false);
    }
  }

  // dq of a tile of the sorted queries.
  __device__ void keep_queries(int g) const {
    const auto first = static_cast<int32_t>(tile_.first), last = static_cast<int32_t>(tile_.last);
    load_queries(1, g, first, last);
    const TileMark mine =
        finish_query(query_mark(g, first + static_cast<int>(threadIdx.x), last), view_.length);
    tiles_.store(0, mine);
    if (const auto n = static_cast<int>(threadIdx.x); n < kTileRows) {
      shared_.begin[n] = mine.lookup;
      shared_.end[n] = mine.lookup + static_cast<int32_t>(mine.extent);
    }
    __syncthreads();
    const TileMark own[2] = {tiles_.mark(0, Tiles::own_row()),
                             tiles_.mark(0, Tiles::own_row() + 8)};
    int32_t x = next_key(0);
    const auto fetch = [&](int slot, RawMark& mark) {
      load_keys(slot, x);
      const auto n = static_cast<int>(threadIdx.x);
      if (n < kTileRows && x + n < view_.length) mark.position = view_.ordered(x + n);
      mark.first = x + n;
    };
    typename Tiles::QuerySums dq;
    Tiles::clear(dq);
    if (x < view_.length) {
      RawMark mark;
      fetch(0, mark);
      tiles_.store(1, finish_place(mark));
      const auto next = [&](int slot, RawMark& coming) {
        x = next_key(x + kTileRows);
        if (x >= view_.length) return Coming::nothing;
        fetch(slot, coming);
        return Coming::marked;
      };
      tiles_.keep_queries(dq, own, 1, 0, 2, 1, next, finish_place);
    }
    const int64_t h = head_ * launch_.group + g;
    if (!Tiles::finite(dq)) return write_exact_queries(p_, launch_, tile_, head_, h);
    const int32_t tokens[2] = {own[0].position, own[1].position};
    store_sums(outputs(p_.dq, h, launch_.access.dq), dq, p_.scale, tokens, launch_.add);
  }

 private:
  template <int kBlocks>
  __device__ static void multiply(float (&sums)[kBlocks][4], float factor) {
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[n][e] *= factor;
    }
  }
  struct QueryInterval {
    int32_t begin, end;  // in the queries' order
  };
  __device__ QueryInterval queries_of(int g) const {
    return queries_of(p_, launch_, tile_, tile_.range.row * p_.q_heads + head_ * launch_.group + g);
  }
  static __device__ QueryInterval queries_of(const BackwardParams& p, const BackwardLaunch& launch,
                                             const TileRange& tile, int64_t query_row) {
    const CudaIndices& indices = launch.plan.indices;
    const Bins bins(p, indices, query_row, tile.s, tile.range);
    const int64_t last_end =
        min(tile.last - 1 + indices.longest_range[query_row], tile.range.length);
    return {bins.begin((tile.first + 1) / kBinEnds), bins.begin(last_end / kBinEnds + 1)};
  }
  // Place x of key_order.
  __device__ TileMark key_at(int32_t x) const {
    TileMark mark;
    if (x >= view_.length) return mark;
    mark.position = view_.ordered(x);
    mark.lookup = x;
    return mark;
  }
  static __device__ TileMark finish_place(const RawMark& raw) {
    TileMark mark;
    if (raw.position < 0) return mark;
    mark.position = raw.position;
    mark.lookup = raw.first;
    return mark;
  }
  __device__ RawMark query_mark(int g, int32_t x, int32_t end) const {
    if (threadIdx.x >= kTileRows || x >= end) return {};
    const SequenceRows<T>& rows = tiles_.rows();
    return rows.mark(p_, launch_, g, rows.ordered(p_, g, x), true);
  }
  __device__ void load_keys(int slot, int32_t x) const {
    tiles_.load(slot, tiles_.rows().keys(p_, launch_), tiles_.rows().values(p_, launch_),
                view_.length - x, [&](int row) { return view_.ordered(x + row); });
  }
  __device__ void load_queries(int slot, int g, int32_t x, int32_t end) const {
    const SequenceRows<T>& rows = tiles_.rows();
    const int32_t* const order = rows.order + g * p_.sequences.length + x;
    tiles_.load(slot, rows.queries(p_, launch_, g), rows.gradients(p_, launch_, g), end - x,
                [&](int row) { return __ldg(order + row); });
  }
  __device__ HeadRows<T> outputs(const Tensor& tensor, int64_t h, bool vectors) const {
    return {tensor.at<T>(tile_.range.row, tile_.range.begin, h), tensor, vectors};
  }
  // The first key at or behind place x that one of the queries that stay looks up; all warps agree.
  __device__ int32_t next_key(int32_t x) const {
    int32_t least = INT32_MAX;
#pragma unroll
    for (int n = static_cast<int>(threadIdx.x % 32); n < kTileRows; n += 32) {
      const int32_t begin = shared_.begin[n], end = shared_.end[n];
      if (end > begin && end > x) least = min(least, max(begin, x));
    }
    return __reduce_min_sync(0xffffffffu, least);
  }
  __device__ void add_rows(typename Tiles::KeySums& sums, int half, const KeyRows& rows) const {
    const int column = static_cast<int>(threadIdx.x % 4) * 2;
    for (int r = 0; r < rows.count; ++r) {
      const float* const from = rows.first + r * launch_.plan.row_width + column;
      add_row(sums.dk, half, from, static_cast<int>(p_.d_qk) - column);
      add_row(sums.dv, half, from + launch_.plan.v_column, static_cast<int>(p_.d_v) - column);
    }
  }
  template <int kBlocks>
  __device__ static void add_row(float (&sums)[kBlocks][4], int half, const float* from,
                                 int columns) {
    float2 pairs[kBlocks];  // all are asked for before any is waited for
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      pairs[n] = n * 8 < columns ? *reinterpret_cast<const float2*>(from + n * 8) : float2{};
    }
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      sums[n][2 * half] += pairs[n].x;
      sums[n][2 * half + 1] += pairs[n].y;
    }
  }

  static __device__ __noinline__ void write_exact_keys(const BackwardParams& p,
                                                       const BackwardLaunch& launch, TileRange tile,
                                                       int64_t head) {
    const PatternView view = view_of(p, launch.plan, tile.range, head);
    for (auto x = static_cast<int32_t>(tile.first + threadIdx.x / 32); x < tile.last;
         x += kTileThreads / 32) {
      const int32_t j = view.ordered(x);
      ExactSums<T, S::kQk, S::kV> sums(p, tile.range, view, PairRule::lsh);
      for (int64_t h = head * p.group(); h < (head + 1) * p.group(); ++h) {
        const int64_t query_row = tile.range.row * p.q_heads + h;
        const QueryInterval interval = queries_of(p, launch, tile, query_row);
        const int32_t* const order =
            launch.plan.sorted_queries + query_row * p.sequences.length + tile.range.begin;
        for (int32_t y = interval.begin; y < interval.end; ++y) {
          sums.add_to_key(order[y], h, j, head);
        }
      }
      sums.write_key(j, head, launch.plan, KeyRows(p, launch.plan, tile.range, view, head, j),
                     false);
    }
  }
  static __device__ __noinline__ void write_exact_queries(const BackwardParams& p,
                                                          const BackwardLaunch& launch,
                                                          TileRange tile, int64_t head, int64_t h) {
    const PatternView view = view_of(p, launch.plan, tile.range, head);
    const int32_t* const order = launch.plan.sorted_queries +
                                 (tile.range.row * p.q_heads + h) * p.sequences.length +
                                 tile.range.begin;
    for (auto y = static_cast<int32_t>(tile.first + threadIdx.x / 32); y < tile.last;
         y += kTileThreads / 32) {
      const int32_t i = order[y];
      const Query query = read_query(p.pattern, tile.range, i, h);
      ExactSums<T, S::kQk, S::kV> sums(p, tile.range, view, PairRule::lsh);
      for (int32_t x = query.begin; x < query.end; ++x) {
        sums.add_to_query(i, h, view.ordered(x), head);
      }
      sums.write_query(i, h, launch.add);
    }
  }

  const BackwardParams& p_;
  const BackwardLaunch& launch_;
  const TileRange& tile_;
  const PatternView view_;
  const int64_t head_;
  LookupShared<S>& shared_;
  const Tiles tiles_;
};

// Blocks of keys and of queries.
template <class S>
__global__ void __launch_bounds__(kTileThreads, 2)
    lookup_keys_kernel(const __grid_constant__ BackwardParams p,
                       const __grid_constant__ BackwardLaunch launch) {
  extern __shared__ __align__(1024) char memory[];
  const BlockPlace at(blockIdx.x, p.k_heads, launch.places);
  const TileRange tile = find_tile(p.sequences, Tiling{kTileRows}, at.row, at.place);
  if (tile.first >= tile.last || !launch.takes(tile.range.length)) return;
  auto& shared = *reinterpret_cast<LookupShared<S>*>(memory);
  LookupBlock<S>(p, launch, tile, at.head, shared).keep_keys();
}
template <class S>
__global__ void __launch_bounds__(kTileThreads, S::kQk > 64 ? 2 : 3)
    lookup_queries_kernel(const __grid_constant__ BackwardParams p,
                          const __grid_constant__ BackwardLaunch launch) {
  extern __shared__ __align__(1024) char memory[];
  const BlockPlace at(blockIdx.x, p.q_heads, launch.places);
  const TileRange tile = find_tile(p.sequences, Tiling{kTileRows}, at.row, at.place);
  if (tile.first >= tile.last || !launch.takes(tile.range.length)) return;
  auto& shared = *reinterpret_cast<LookupShared<S>*>(memory);
  const int64_t head = at.head / static_cast<uint32_t>(launch.group);
  LookupBlock<S>(p, launch, tile, head, shared)
      .keep_queries(static_cast<int>(at.head - head * launch.group));
}

}  // namespace hax::sparse_attention
