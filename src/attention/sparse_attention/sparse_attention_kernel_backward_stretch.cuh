// What keys' spans add, apart from LSH, in sequences too long to try all pairs; for activations of 16 bits. A block has
// a stretch of queries and the keys whose spans touch it. As long as a tile takes these, they stay and every tile of
// queries passes once: dk, dv and dq come from the same P and dS. Other stretches are left to the kernels for lists.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_span_block.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_walk.cuh"

namespace hax::sparse_attention {

template <class S>
struct StretchShared : PairShared<S> {
  WalkShared<kTileThreads> walk;
  static constexpr int kMostSegments = 64;
  alignas(128) char slopes[kPanelBytes];
  int32_t ends[kMostSegments];  // of segments of queries
  int32_t keys[kTileRows];      // those that stay
  int32_t count;
  uint32_t not_finite;  // tiles of queries of the segment
};

template <class S>
class StretchBlock : public SpanBlock<S, StretchShared<S>> {
 public:
  using Base = SpanBlock<S, StretchShared<S>>;
  using Shared = StretchShared<S>;
  using typename Base::Tiles;
  static constexpr int32_t kFewestQueries = 16;  // of a segment

  __device__ StretchBlock(const BackwardParams& p, const BackwardLaunch& launch,
                          const TileRange& tile, int64_t head, Shared& shared)
      : Base(p, launch, tile, head, shared) {}

  __device__ void run() {
    KeyWalkInStretch<kTileThreads> walk(shared_.walk, p_, launch_.plan, tile_, head_, view_);
    walk.start(first_, last_, false);
    listed_ = walk.fill();
    const int segments = walk.done() ? find_segments() : 0;
    if (threadIdx.x == 0) *apart(p_, launch_.plan, tile_, head_) = segments == 0;
    int32_t x = first_;
    for (int n = 0; n < segments; ++n) {
      const int32_t end = shared_.ends[n];
      collect(x, end);
      pass_segment(x, end);
      x = end;
    }
  }

 private:
  using Base::first_, Base::last_;
  using Base::p_, Base::launch_, Base::tile_, Base::view_, Base::head_, Base::shared_, Base::tiles_;

  __device__ bool touches(int32_t j, int32_t x, int32_t end) const {
    return j < end && view_.reach(j) > x;
  }
  // Whether a tile takes the listed keys that serve queries [x, end).
  __device__ bool fit(int32_t x, int32_t end) const {
    int count = 0;
    for (int base = 0; base < listed_; base += kTileThreads) {
      const int n = base + static_cast<int>(threadIdx.x);
      count += __syncthreads_count(n < listed_ && touches(shared_.walk.keys[n], x, end));
    }
    return count <= kTileRows;
  }
  // Up to where from x on it takes all keys; x where it doesn't take those of the next few queries.
  __device__ int32_t longest_segment(int32_t x) const {
    if (fit(x, last_)) return last_;
    int32_t fitting = 0, too_many = (last_ - x + kFewestQueries - 1) / kFewestQueries;
    while (too_many - fitting > 1) {
      const int32_t middle = (fitting + too_many) / 2;
      (fit(x, x + middle * kFewestQueries) ? fitting : too_many) = middle;
    }
    return x + fitting * kFewestQueries;
  }
  // Cuts the stretch into segments whose keys a tile takes; their number, 0 if that can't be done.
  __device__ int find_segments() const {
    int segments = 0;
    for (int32_t x = first_; x < last_; ++segments) {
      const int32_t end = longest_segment(x);
      if (end == x || segments == Shared::kMostSegments) return 0;
      if (threadIdx.x == 0) shared_.ends[segments] = end;
      x = end;
    }
    __syncthreads();
    return segments;
  }
  __device__ void collect(int32_t x, int32_t end) const {
    const auto lane = static_cast<int>(threadIdx.x);
    if (lane < 32) {
      int count = 0;
      for (int base = 0; base < listed_; base += 32) {
        const int32_t j = base + lane < listed_ ? shared_.walk.keys[base + lane] : end;
        const bool mine = touches(j, x, end);
        const uint32_t votes = __ballot_sync(0xffffffffu, mine);
        if (mine) shared_.keys[count + __popc(votes & ((1u << lane) - 1))] = j;
        count += __popc(votes);
      }
      if (lane == 0) {
        shared_.count = count;
        shared_.not_finite = 0;
      }
    }
    __syncthreads();
  }

  // Queries [first, end), and the collected keys.
  __device__ void pass_segment(int32_t first, int32_t end) {
    const int32_t* const list = shared_.keys;
    const int count = shared_.count;
    this->load_keys(0, list, count);
    int g = 0;
    int32_t x = first, present = first;
    int present_g = 0;
    const auto fetch = [&](int slot, RawMark& mark) {
      this->load_queries(slot, g, x, end);
      const auto n = static_cast<int>(threadIdx.x);
      if (n < kTileRows) mark = this->query_mark(g, x + n, end);
    };
    const auto finish = [&](const RawMark& query) { return this->finish_query(query); };
    RawMark mark;
    fetch(1, mark);
    const TileMark own[2] = {this->finish_key(this->key_mark(list, count, Tiles::own_row())),
                             this->finish_key(this->key_mark(list, count, Tiles::own_row() + 8))};
    tiles_.store(0, finish(mark));
    const auto next = [&](int slot, RawMark& coming) {
      present = x;
      present_g = g;
      x += kTileRows;
      if (x >= end) {
        if (++g == launch_.group) return Coming::nothing;
        x = first;
      }
      fetch(slot, coming);
      return Coming::marked;
    };
    const auto give = [&](const typename Tiles::QuerySums& dq) {
      if (!Tiles::own_finite(dq)) {
        atomicOr(&shared_.not_finite, 1u << ((present - first) / kTileRows));
      }
      const int32_t i = present + Tiles::own_row();
      const int32_t tokens[2] = {i < end ? i : -1, i + 8 < end ? i + 8 : -1};
      this->write_queries(present_g, dq, tokens, false);
    };
    typename Tiles::KeySums sums;
    tiles_.keep_keys_and_give(sums, own, device::shared_address(shared_.slopes), next, finish,
                              give);
    if (Tiles::finite(sums)) {
      this->write_shares(sums, own, first);
    } else {
      Base::write_exact_keys(p_, launch_, tile_, head_, list, count, first, end);
    }
    if (p_.dq && shared_.not_finite != 0) repair_queries(first, end);
    __syncthreads();
  }
  __device__ void repair_queries(int32_t first, int32_t end) const {
    for (uint32_t tiles = shared_.not_finite; tiles != 0; tiles &= tiles - 1) {
      const int32_t x = first + (__ffs(static_cast<int>(tiles)) - 1) * kTileRows;
      for (int g = 0; g < launch_.group; ++g) {
        Base::write_exact_queries(p_, launch_, tile_, head_, this->query_head(g), x,
                                  min(x + kTileRows, end));
      }
    }
  }

  int listed_ = 0;  // keys of the stretch
};

template <class S>
__global__ void __launch_bounds__(kTileThreads, 2)
    stretch_kernel(const __grid_constant__ BackwardParams p,
                   const __grid_constant__ BackwardLaunch launch) {
  using Shared = StretchShared<S>;
  static_assert(sizeof(Shared) <= 99 * 1024);  // it has no other kernel
  for_tile<Shared>(p, launch, p.k_heads, int64_t{1} << launch.plan.stretch_log2,
                   [&](const TileRange& tile, int64_t head, Shared& shared) {
                     StretchBlock<S>(p, launch, tile, head, shared).run();
                   });
}

}  // namespace hax::sparse_attention
