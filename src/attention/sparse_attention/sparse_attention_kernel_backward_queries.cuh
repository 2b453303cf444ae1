// dq: a block keeps queries and streams the keys that they attend.
#pragma once

#include <new>

#include "attention/sparse_attention/sparse_attention_kernel_backward_rows.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_tile.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_walk.cuh"

namespace hax::sparse_attention {

template <class S>
struct QueriesShared : BackwardShared<S> {
  WalkShared<S::kThreads> walk;
  // The block's heads.
  alignas(16) char head[sizeof(QueryHead<typename S::T>)];
  const typename S::T *k, *v;
};

// The keys of a tile of queries, a tile of keys at a time. Lane n of every warp is given key n, so that all warps take
// the same way without waiting for each other.
template <class S>
class KeyStream {
 public:
  static constexpr int kKeys = S::kStreamed;
  static_assert(kKeys <= 32 && S::kStay <= 64);

  __device__ KeyStream(const BackwardParams& p, const BackwardLaunch& launch, const TileRange& tile,
                       int64_t head, const PatternView& view, QueriesShared<S>& shared)
      : launch_(launch),
        view_(view),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x % 32)),
        window_only_(p.pattern.bits == HAX_PATTERN_SLIDING_WINDOW),
        walk_(shared.walk, p, launch.plan, tile, head, view) {
    if (launch.pass != BackwardPass::stretch) return;
    walk_.start(static_cast<int32_t>(tile.first), static_cast<int32_t>(tile.last), false);
    listed_ = walk_.fill();
    whole_ = walk_.done();
  }

  // Whether the keys of the block's stretch fit the tiles in shared memory, and so need be fetched only once.
  __device__ bool all_fit() const { return whole_ && listed_ <= S::kTiles * kKeys; }

  // Queries [first, last), or those in these places of their order; their marks are in shared memory.
  __device__ void start(int32_t first, int32_t last) {
    first_ = first;
    last_ = last;
    x_ = 0;
    if (launch_.pass == BackwardPass::neighbours && window_only_) {
      x_ = max(0, first + 1 - static_cast<int32_t>(min(view_.window, kEndless)));
    }
    if (launch_.pass != BackwardPass::stretch || whole_) return;
    walk_.start(first, last, false);
    listed_ = walk_.fill();
  }

  // The next tile's keys; false when there is none. All threads call it.
  __device__ bool next(Key& key) {
    switch (launch_.pass) {
      case BackwardPass::order: return next_ordered(key);
      case BackwardPass::stretch: return next_listed(key);
      default: break;
    }
    if (x_ >= last_) return false;
    key = read_key(view_, lane_ < kKeys && x_ + lane_ < last_ ? x_ + lane_ : -1);
    x_ += kKeys;
    return true;
  }

 private:
  // From the next key that some query looks up.
  __device__ bool next_ordered(Key& key) {
    const auto& q = shared_.queries[0];
    int32_t least = INT32_MAX;
#pragma unroll
    for (int n = 0; n < S::kStay; n += 32) {
      if (n + lane_ >= S::kStay) continue;
      const int32_t begin = q.begin[n + lane_];
      const auto count = static_cast<int32_t>(q.count[n + lane_]);
      if (count > 0 && begin + count > x_) least = min(least, max(begin, x_));
    }
    x_ = __reduce_min_sync(0xffffffffu, least);
    if (x_ == INT32_MAX) return false;
    const int32_t x = x_ + lane_;
    key = lane_ < kKeys && x < view_.length ? Key{view_.ordered(x), 0, x} : Key{};
    x_ += kKeys;
    return true;
  }

  // The listed keys that touch the tile.
  __device__ bool next_listed(Key& key) {
    for (;;) {
      if (x_ >= listed_) {
        if (whole_) return false;
        listed_ = walk_.fill();
        x_ = 0;
        if (listed_ == 0) return false;
      }
      const int32_t j = lane_ < kKeys && x_ + lane_ < listed_ ? shared_.walk.keys[x_ + lane_] : -1;
      key = read_key(view_, j);
      x_ += kKeys;
      const bool touches = j >= 0 && j < last_ && view_.reach(j) > first_;
      if (all_fit() || __any_sync(0xffffffffu, touches)) return true;
    }
  }

  const BackwardLaunch& launch_;
  const PatternView& view_;
  QueriesShared<S>& shared_;
  const int lane_;
  const bool window_only_;
  KeyWalkInStretch<S::kThreads> walk_;
  int32_t first_ = 0, last_ = 0;
  int32_t x_ = 0;       // the next key: position, place in key_order, or entry of the list
  int32_t listed_ = 0;  // length of the list at hand
  bool whole_ = false;  // it holds all keys of the block's stretch
};

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kQueriesBlocks)
    queries_kernel(const __grid_constant__ BackwardParams p,
                   const __grid_constant__ BackwardLaunch launch) {
  using T = typename S::T;
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<QueriesShared<S>*>(memory);
  const CudaBackwardPlan& plan = launch.plan;
  const Tiling tiling{launch.pass == BackwardPass::stretch ? plan.query_stretch
                                                           : int64_t{S::kStay}};
  const BlockPlace at(blockIdx.x, p.q_heads, launch.places);
  const int64_t h = at.head, head = at.head / static_cast<uint32_t>(launch.group);
  const TileRange tile = find_tile(p.sequences, tiling, at.row, at.place);
  if (tile.first >= tile.last || !launch.takes(tile.range.length)) return;
  const PatternView view = view_of(p, plan, tile.range, head);
  const auto& query_head = *reinterpret_cast<const QueryHead<T>*>(shared.head);
  if (threadIdx.x == 0) {
    new (shared.head) QueryHead<T>(p, plan, tile.range, h);
    shared.k = p.k.at<const T>(tile.range.row, tile.range.begin, head);
    shared.v = p.v.at<const T>(tile.range.row, tile.range.begin, head);
  }
  __syncthreads();
  KeyStream<S> keys(p, launch, tile, head, view, shared);
  StepOptions options{launch.rule, p.scale * device::kLog2E, true, false, false};
  BackwardTile<S, false> sums(shared);
  const auto fetch_rows = [&](int stage) {
    const auto at = [&](int n) { return shared.keys[stage].position[n]; };
    load_tile<S::kThreads, S::kStreamed, S::kQk, S::kStride1>(
        shared.b1[stage % S::kTiles], TileRowsView<const T>(p.k, shared.k, launch.access.k), at);
    load_tile<S::kThreads, S::kStreamed, S::kV, S::kStride2>(
        shared.b2[stage % S::kTiles], TileRowsView<const T>(p.v, shared.v, launch.access.v), at);
    device::commit_copies();
  };

  int kept = 0;  // tiles of keys in shared memory that serve all of the block's queries
  for (auto first = static_cast<int32_t>(tile.first); first < tile.last; first += S::kStay) {
    const int32_t last = min(first + S::kStay, static_cast<int32_t>(tile.last));
    const auto query_at = [&](int n) {
      if (first + n >= last) return -1;
      return launch.pass == BackwardPass::order ? __ldg(query_head.order + first + n) : first + n;
    };
    __syncthreads();
    load_tile<S::kThreads, S::kStay, S::kQk, S::kStride1>(
        shared.a1, TileRowsView<const T>(p.q, query_head.q, launch.access.q), query_at);
    load_tile<S::kThreads, S::kStay, S::kV, S::kStride2>(
        shared.a2, TileRowsView<const T>(p.d_o, query_head.d_o, launch.access.d_o), query_at);
    device::commit_copies();
    if (const int n = static_cast<int>(threadIdx.x); n < S::kStay) {
      store_mark(shared.queries[0], n, query_head.mark(p, view.length, query_at(n)));
    }
    __syncthreads();
    options.careful = false;
    for (;;) {
      sums.clear();
      Key key;
      int stage = 0;
      // Marks of the next tile, and its rows on their way.
      const auto fetch = [&](int to) {
        if (!keys.next(key)) return false;
        if (threadIdx.x < S::kStreamed) {
          store_mark(shared.keys[to], static_cast<int>(threadIdx.x), key);
        }
        __syncthreads();
        fetch_rows(to);
        return true;
      };
      bool present = kept > 0;
      if (kept == 0) {
        keys.start(first, last);
        present = fetch(0);
      }
      for (int tiles = 1; present; ++tiles, stage ^= 1) {
        bool more = tiles < kept;
        if (kept == 0 && S::kTiles == 2) more = fetch(stage ^ 1);
        if (more && kept == 0) {
          device::wait_for_copies<1>();
        } else {
          device::wait_for_copies<0>();
        }
        __syncthreads();
        sums.step(options, stage, [&] {
          fetch_rows(stage);
          device::wait_for_copies<0>();
          __syncthreads();
        });
        __syncthreads();
        if (kept == 0 && S::kTiles == 1) more = fetch(stage ^ 1);
        if (!more && kept == 0 && keys.all_fit()) kept = tiles;
        present = more;
      }
      if (options.careful || sums.finite()) break;
      options.careful = true;
    }
    const float* const staged = sums.stage1(p.scale);
    const TileRowsView<T> dq(p.dq, tile.range, h, launch.access.dq);
#pragma unroll 2
    for (auto row = static_cast<int>(threadIdx.x / 32); row < S::kStay; row += S::kThreads / 32) {
      for (auto c = static_cast<int>(threadIdx.x % 32 * 2); c < dq.width; c += 64) {
        const float2 sum = *reinterpret_cast<const float2*>(staged + row * S::kStride1 + c);
        store_pair(dq, launch.add, shared.queries[0].position[row], c, sum.x, sum.y);
      }
    }
  }
}

}  // namespace hax::sparse_attention
