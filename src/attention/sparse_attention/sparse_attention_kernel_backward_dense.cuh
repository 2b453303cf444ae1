// All of backward for activations of 16 bits where neighbours meet neighbours: sequences short enough that every pair
// of a query and an earlier key is tried, the full pattern, and the window alone. A block has a tile of 64 tokens of a
// sequence and key head. First its keys stay and the queries that may attend them pass by, those of the last tile
// first, which gives dk and dv. The last to pass are the tile's own queries, which then stay while the keys before
// them pass, their own first: dq. So all blocks of a sequence have equally much to do.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_exact.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_pairs.cuh"

namespace hax::sparse_attention {

template <class S>
class DenseBlock {
 public:
  using T = typename S::T;
  using Tiles = PairTiles<S, PairRule::own, PairRule::either>;

  __device__ DenseBlock(const BackwardParams& p, const BackwardLaunch& launch,
                        const TileRange& tile, int64_t head, PairShared<S>& shared)
      : p_(p),
        launch_(launch),
        tile_(tile),
        view_(view_of(p, launch.plan, tile.range, head)),
        head_(head),
        shared_(shared),
        tiles_(shared, p.scale, launch.rule),
        length_(static_cast<int32_t>(tile.range.length)),
        number_(static_cast<int>(tile.first / kTileRows)) {
    first_tile_ = 0, last_tile_ = (length_ - 1) / kTileRows;
    if (view_.uniform && launch.rule == PairRule::own) {  // the window alone
      const int64_t reach = int64_t{view_.window} - 1;
      if (reach < length_) {
        const int far = (static_cast<int>(reach) + kTileRows - 1) / kTileRows;
        first_tile_ = max(number_ - far, 0);
        last_tile_ = min(number_ + far, last_tile_);
      }
    }
  }

  __device__ void run() {
    tiles_.set_rows(p_, launch_, tile_.range, head_);
    const bool keys = p_.dk || p_.dv;
    if (keys) keep_keys();
    if (!p_.dq) return;
    const int last_head = launch_.group - 1;
    for (int g = last_head; g >= 0; --g) keep_queries(g, keys && g == last_head);
  }

 private:
  // g: head of the group.
  __device__ void load_queries(int slot, int tile, int g) const {
    const int32_t first = tile * kTileRows;
    tiles_.load(slot, tiles_.rows().queries(p_, launch_, g),
                tiles_.rows().gradients(p_, launch_, g), length_ - first,
                [&](int row) { return first + row; });
  }
  __device__ void load_keys(int slot, int tile) const {
    const int32_t first = tile * kTileRows;
    tiles_.load(slot, tiles_.rows().keys(p_, launch_), tiles_.rows().values(p_, launch_),
                length_ - first, [&](int row) { return first + row; });
  }
  __device__ RawMark query_mark(int tile, int g) const {
    const auto n = static_cast<int>(threadIdx.x);
    const int32_t i = tile * kTileRows + n;
    if (n >= kTileRows || i >= length_) return {};
    return tiles_.rows().mark(p_, launch_, g, i, launch_.rule == PairRule::either);
  }
  __device__ RawMark key_mark(int tile, int row) const {
    const int32_t j = tile * kTileRows + row;
    return read_raw_key(view_, row < kTileRows && j < length_ ? j : -1);
  }
  __device__ void own_tokens(int32_t (&tokens)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t token = number_ * kTileRows + Tiles::own_row() + 8 * half;
      tokens[half] = token < length_ ? token : -1;
    }
  }

  // delta of the queries in slot 1 and, if there are two tiles of them, slot 2. A thread has 16 bytes of every eighth row
  // of o, and reads them before it waits for d_o.
  static constexpr int kEights = S::kV / 8, kRowsAtOnce = kTileThreads / kEights;
  static constexpr int kPasses = kTileRows / kRowsAtOnce;
  __device__ int32_t delta_token(int n) const {
    return (last_tile_ - n / kPasses) * kTileRows + n % kPasses * kRowsAtOnce +
           static_cast<int>(threadIdx.x) / kEights;
  }
  __device__ void read_o(uint4 (&rows)[2 * kPasses], int tiles) const {
    const int eight = static_cast<int>(threadIdx.x) % kEights;
    const bool inside = eight * 8 < static_cast<int>(p_.d_v);
    const HeadRows<const T> o{
        p_.o.at<const T>(tile_.range.row, tile_.range.begin, head_) + (inside ? eight * 8 : 0),
        p_.o, true};
#pragma unroll
    for (int n = 0; n < 2 * kPasses; ++n) {  // what isn't there meets zeros
      const int32_t token = min(delta_token(n / kPasses < tiles ? n : n % kPasses), length_ - 1);
      rows[n] = __ldg(reinterpret_cast<const uint4*>(o.row(token)));
    }
  }
  __device__ void sum_delta(const uint4 (&rows)[2 * kPasses], int tiles) const {
    static_assert(2 * kPasses == kEights);
    const int eight = static_cast<int>(threadIdx.x) % kEights;
    const int row = static_cast<int>(threadIdx.x) / kEights;
    float sums[kEights];
#pragma unroll
    for (int n = 0; n < kEights; ++n) {
      const auto d_o = *static_cast<const uint4*>(
          device::shared_pointer(tiles_.second(n / kPasses < tiles ? 1 + n / kPasses : 1) +
                                 swizzled_place(n % kPasses * kRowsAtOnce + row, eight)));
      const uint32_t x[4] = {rows[n].x, rows[n].y, rows[n].z, rows[n].w};
      const uint32_t y[4] = {d_o.x, d_o.y, d_o.z, d_o.w};
      sums[n] = 0.0f;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 a = device::unpack_pair<T>(x[i]), b = device::unpack_pair<T>(y[i]);
        sums[n] += a.x * b.x + a.y * b.y;
      }
    }
    // Lane n of those that share rows ends up with sum n.
#pragma unroll
    for (int d = kEights / 2; d > 0; d /= 2) {
      const bool upper = (eight & d) != 0;
#pragma unroll
      for (int n = 0; n < d; ++n) {
        const float other = __shfl_xor_sync(0xffffffffu, upper ? sums[n] : sums[n + d], d);
        sums[n] = (upper ? sums[n + d] : sums[n]) + other;
      }
    }
    if (eight / kPasses >= tiles) return;
    const int32_t token = delta_token(eight);
    float delta = 0.0f;
    if (token < length_) {
      delta = sums[0];
      if (p_.dlse) {
        delta -= *p_.dlse.at<const float>(tile_.range.row, head_, tile_.range.begin + token);
      }
    }
    shared_.marks[eight / kPasses].delta[eight % kPasses * kRowsAtOnce + row] = delta;
  }

  __device__ void keep_keys() {
    const auto group = static_cast<int>(p_.group());
    const int steps = group * (last_tile_ - number_ + 1);
    const int loaded = launch_.sums_delta ? min(steps, 2) : 1;
    load_keys(0, number_);
    RawMark marks[2];
    for (int i = 0; i < 2; ++i) {
      if (i >= loaded) break;
      load_queries(1 + i, last_tile_ - i, 0);
      marks[i] = query_mark(last_tile_ - i, 0);
    }
    const RawMark keys[2] = {key_mark(number_, Tiles::own_row()),
                             key_mark(number_, Tiles::own_row() + 8)};
    const auto store = [&] {
      tiles_.store(0, finish_query(marks[0], length_));
      if (loaded > 1) tiles_.store(1, finish_query(marks[1], length_));
    };
    if (launch_.sums_delta) {
      uint4 rows[2 * kPasses];
      read_o(rows, loaded);
      store();
      Tiles::await_copies();
      sum_delta(rows, loaded);
    } else {
      store();
    }
    const TileMark own[2] = {finish_key(keys[0], view_), finish_key(keys[1], view_)};
    int tile = last_tile_, g = 0;
    typename Tiles::KeySums sums;
    const auto next = [&](int slot, RawMark& mark) {
      if (--tile < number_) tile = last_tile_, ++g;
      if (g == group) {
        if (p_.dq && number_ > first_tile_) load_keys(slot, number_ - 1);
        return Coming::nothing;
      }
      if (launch_.sums_delta) return Coming::there;
      load_queries(slot, tile, g);
      mark = query_mark(tile, g);
      return Coming::marked;
    };
    stage_ = tiles_.keep_keys(sums, own, next,
                              [&](const RawMark& mark) { return finish_query(mark, length_); });
    if (!Tiles::finite(sums)) {
      return write_exact_keys(p_, launch_, tile_, head_,
                              min((last_tile_ + 1) * kTileRows, length_));
    }
    int32_t tokens[2];
    own_tokens(tokens);
    if (p_.dk) {
      store_sums(outputs(p_.dk, head_, launch_.access.dk), sums.dk, p_.scale, tokens, false);
    }
    if (p_.dv) {
      store_sums(outputs(p_.dv, head_, launch_.access.dv), sums.dv, 1.0f, tokens, false);
    }
  }

  // resident: after keep_keys, that is the queries and their marks lie where they passed last, the keys in slot 0, and
  // those before them have been asked for.
  __device__ void keep_queries(int g, bool resident) {
    __syncthreads();
    if (!resident) {
      load_queries(1, number_, g);
      load_keys(0, number_);
      stage_ = 0;
      tiles_.store(0, finish_query(query_mark(number_, g), length_));
      __syncthreads();
    }
    const TileMark own[2] = {tiles_.mark(stage_, Tiles::own_row()),
                             tiles_.mark(stage_, Tiles::own_row() + 8)};
    const auto finish = [&](const RawMark& mark) { return finish_key(mark, view_); };
    tiles_.store(stage_ ^ 1, finish(key_mark(number_, static_cast<int>(threadIdx.x))));
    int tile = number_;
    typename Tiles::QuerySums dq;
    const auto next = [&](int slot, RawMark& mark) {
      if (--tile < first_tile_) return Coming::nothing;
      if (!resident || tile < number_ - 1) load_keys(slot, tile);
      mark = key_mark(tile, static_cast<int>(threadIdx.x));
      return Coming::marked;
    };
    tiles_.keep_queries(dq, own, 1 + stage_, 0, 2 - stage_, stage_ ^ 1, next, finish);
    const int64_t h = head_ * launch_.group + g;
    if (!Tiles::finite(dq)) {
      return write_exact_queries(p_, launch_, tile_, head_, h, first_tile_ * kTileRows);
    }
    int32_t tokens[2];
    own_tokens(tokens);
    store_sums(outputs(p_.dq, h, launch_.access.dq), dq, p_.scale, tokens, false);
  }

  __device__ HeadRows<T> outputs(const Tensor& tensor, int64_t h, bool vectors) const {
    return {tensor.at<T>(tile_.range.row, tile_.range.begin, h), tensor, vectors};
  }

  static __device__ __noinline__ void write_exact_keys(const BackwardParams& p,
                                                       const BackwardLaunch& launch, TileRange tile,
                                                       int64_t head, int32_t end) {
    const PatternView view = view_of(p, launch.plan, tile.range, head);
    for (auto j = static_cast<int32_t>(tile.first + threadIdx.x / 32); j < tile.last;
         j += kTileThreads / 32) {
      ExactSums<T, S::kQk, S::kV> sums(p, tile.range, view, launch.rule);
      for (int64_t h = head * p.group(); h < (head + 1) * p.group(); ++h) {
        for (int32_t i = j; i < end; ++i) sums.add_to_key(i, h, j, head);
      }
      sums.write_key(j, head, launch.plan, KeyRows(), false);
    }
  }
  static __device__ __noinline__ void write_exact_queries(const BackwardParams& p,
                                                          const BackwardLaunch& launch,
                                                          TileRange tile, int64_t head, int64_t h,
                                                          int32_t first_key) {
    const PatternView view = view_of(p, launch.plan, tile.range, head);
    for (auto i = static_cast<int32_t>(tile.first + threadIdx.x / 32); i < tile.last;
         i += kTileThreads / 32) {
      ExactSums<T, S::kQk, S::kV> sums(p, tile.range, view, launch.rule);
      for (int32_t j = first_key; j <= i; ++j) sums.add_to_query(i, h, j, head);
      sums.write_query(i, h, false);
    }
  }

  const BackwardParams& p_;
  const BackwardLaunch& launch_;
  const TileRange& tile_;
  const PatternView view_;
  const int64_t head_;
  PairShared<S>& shared_;
  const Tiles tiles_;
  const int32_t length_;
  const int number_;
  int first_tile_, last_tile_;  // of keys for the tile's queries, of queries for its keys
  int stage_ = 0;               // marks of the queries that passed last
};

template <class S>
__global__ void __launch_bounds__(kTileThreads, 2)
    dense_kernel(const __grid_constant__ BackwardParams p,
                 const __grid_constant__ BackwardLaunch launch) {
  // sums_delta has no other kernel, so this one must fit every GPU.
  static_assert(sizeof(PairShared<S>) <= 99 * 1024);
  extern __shared__ __align__(1024) char memory[];
  const BlockPlace at(blockIdx.x, p.k_heads, launch.places);
  const TileRange tile = find_tile(p.sequences, Tiling{kTileRows}, at.row, at.place);
  if (tile.first >= tile.last || !launch.takes(tile.range.length)) return;
  DenseBlock<S>(p, launch, tile, at.head, *reinterpret_cast<PairShared<S>*>(memory)).run();
}

}  // namespace hax::sparse_attention
