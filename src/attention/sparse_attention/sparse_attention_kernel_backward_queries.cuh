// dq: a block keeps queries and streams the keys that they attend.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_rows.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_walk.cuh"

namespace hax::sparse_attention {

template <class S>
struct QueriesShared : BackwardShared<S> {
  WalkShared<S::kThreads> walk;
};

// Brings the keys of a tile of queries into shared memory's marks, a tile of keys at a time.
template <class S>
class KeyStream {
 public:
  __device__ KeyStream(const BackwardParams& p, const BackwardLaunch& launch, const TileRange& tile,
                       int64_t head, const PatternView& view, QueriesShared<S>& shared)
      : launch_(launch),
        window_only_(p.pattern.bits == HAX_PATTERN_SLIDING_WINDOW),
        view_(view),
        shared_(shared),
        walk_(shared.walk, view,
              launch.plan.chunk_reach + reach_place(p, tile.range.row * p.k_heads + head, tile),
              nullptr) {
    if (launch.pass != BackwardPass::stretch) return;
    walk_.start(static_cast<int32_t>(tile.first), static_cast<int32_t>(tile.last), false);
    listed_ = walk_.fill();
    whole_ = walk_.done();
  }

  // Queries [first, last), or those in these places of their order; their marks are set.
  __device__ void start(int32_t first, int32_t last) {
    first_ = first;
    last_ = last;
    x_ = launch_.pass == BackwardPass::neighbours ? oldest(first) : 0;
    if (launch_.pass != BackwardPass::stretch || whole_) return;
    walk_.start(first, last, false);
    listed_ = walk_.fill();
  }

  // Whether there is another tile of keys. `load` is told that it differs from the last one.
  __device__ bool next(bool& changed) {
    changed = true;
    switch (launch_.pass) {
      case BackwardPass::order: return next_ordered();
      case BackwardPass::stretch: return next_listed(changed);
      default: break;
    }
    if (x_ >= last_) return false;
    set_marks([&](int n) { set_key(shared_.keys, n, view_, x_ + n < last_ ? x_ + n : -1); });
    x_ += S::kStreamed;
    return true;
  }

 private:
  template <class F>
  __device__ void set_marks(F&& set) {
    __syncthreads();
#pragma unroll 1
    for (int n = static_cast<int>(threadIdx.x); n < S::kStreamed; n += S::kThreads) set(n);
    __syncthreads();
  }

  __device__ int32_t oldest(int32_t first) const {
    if (!window_only_ || first < view_.window) return 0;
    return first + 1 - static_cast<int32_t>(view_.window);
  }

  // From the next key that some query looks up.
  __device__ bool next_ordered() {
    __syncthreads();
    if (threadIdx.x == 0) shared_.least = INT32_MAX;
    __syncthreads();
    const auto& q = shared_.queries;
    for (int n = static_cast<int>(threadIdx.x); n < S::kStay; n += S::kThreads) {
      const auto end = static_cast<int32_t>(q.begin[n] + q.count[n]);
      if (q.count[n] > 0 && end > x_) atomicMin(&shared_.least, max(q.begin[n], x_));
    }
    __syncthreads();
    x_ = shared_.least;
    if (x_ == INT32_MAX) return false;
    set_marks([&](int n) {
      const int32_t x = x_ + n;
      if (x < view_.length) {
        set_key(shared_.keys, n, view_.ordered(x), 0, x);
      } else {
        set_key(shared_.keys, n, -1, 0, -1);
      }
    });
    x_ += S::kStreamed;
    return true;
  }

  // The listed keys that touch the tile.
  __device__ bool next_listed(bool& changed) {
    for (;;) {
      if (x_ >= listed_) {
        if (whole_) return false;
        listed_ = walk_.fill();
        x_ = 0;
        if (listed_ == 0) return false;
      }
      const bool only = whole_ && listed_ <= S::kStreamed;
      if (only && kept_) {
        changed = false;
        x_ += S::kStreamed;
        return true;
      }
      bool touches = only;
      set_marks([&](int n) {
        const int32_t j = x_ + n < listed_ ? shared_.walk.keys[x_ + n] : -1;
        set_key(shared_.keys, n, view_, j);
        touches |= j >= 0 && j < last_ && view_.reach(j) > first_;
      });
      kept_ = only;
      x_ += S::kStreamed;
      if (__syncthreads_or(touches)) return true;
    }
  }

  const BackwardLaunch& launch_;
  const bool window_only_;
  const PatternView& view_;
  QueriesShared<S>& shared_;
  KeyWalkInStretch<S::kThreads> walk_;
  int32_t first_ = 0, last_ = 0;
  int32_t x_ = 0;       // the next key: position, place in key_order, or entry of the list
  int32_t listed_ = 0;  // length of the list at hand
  bool whole_ = false;  // it holds all keys of the block's stretch
  bool kept_ = false;   // the keys in shared memory are the list's only ones
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
  const int64_t places = tiling.places(p.sequences);
  const int64_t h = blockIdx.x % p.q_heads, head = h / p.group();
  const int64_t row_place = blockIdx.x / p.q_heads;
  const TileRange tile = find_tile(p.sequences, tiling, row_place / places, row_place % places);
  if (tile.first >= tile.last || !launch.takes(tile.range.length)) return;
  const PatternView view = view_of(p, plan, tile.range, head);
  const int32_t* const order = launch.pass == BackwardPass::order
                                   ? plan.sorted_queries +
                                         (tile.range.row * p.q_heads + h) * p.sequences.length +
                                         tile.range.begin
                                   : nullptr;
  KeyStream<S> keys(p, launch, tile, head, view, shared);
  StepOptions options{launch.rule, p.scale * device::kLog2E, true, false, false};
  BackwardTile<S, false> sums(shared);
  const auto load = [&] {
    load_tile<S::kThreads, S::kStreamed, S::kQk, S::kStride1>(
        shared.b1, RowsView<const T>(p.k, tile.range, head, launch.access.k), shared.keys.position);
    load_tile<S::kThreads, S::kStreamed, S::kV, S::kStride2>(
        shared.b2, RowsView<const T>(p.v, tile.range, head, launch.access.v), shared.keys.position);
    device::commit_copies();
    device::wait_for_copies<0>();
    __syncthreads();
  };

  for (auto first = static_cast<int32_t>(tile.first); first < tile.last; first += S::kStay) {
    const int32_t last = min(first + S::kStay, static_cast<int32_t>(tile.last));
    __syncthreads();
#pragma unroll 1
    for (int n = static_cast<int>(threadIdx.x); n < S::kStay; n += S::kThreads) {
      const int32_t i = first + n >= last ? -1 : order ? order[first + n] : first + n;
      set_query(shared.queries, n, p, plan, tile.range, h, i);
    }
    __syncthreads();
    load_tile<S::kThreads, S::kStay, S::kQk, S::kStride1>(
        shared.a1, RowsView<const T>(p.q, tile.range, h, launch.access.q), shared.queries.position);
    load_tile<S::kThreads, S::kStay, S::kV, S::kStride2>(
        shared.a2, RowsView<const T>(p.d_o, tile.range, h, launch.access.d_o),
        shared.queries.position);
    options.careful = false;
    for (;;) {
      sums.clear();
      keys.start(first, last);
      for (bool changed; keys.next(changed);) {
        if (changed) {
          load();
        } else {
          device::commit_copies();
          device::wait_for_copies<0>();
          __syncthreads();
        }
        sums.step(options, load);
      }
      if (options.careful || sums.finite()) break;
      options.careful = true;
    }
    const RowsView<T> dq(p.dq, tile.range, h, launch.access.dq);
    sums.each_pair1([&](int row, int column, float x, float y) {
      store_pair(dq, launch.add, shared.queries.position[row], column, x * p.scale, y * p.scale);
    });
    __syncthreads();
  }
}

}  // namespace hax::sparse_attention
