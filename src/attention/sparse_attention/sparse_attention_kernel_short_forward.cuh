// Forward of LSH and key selection for short sequences: a block computes neighbours in the order of `end`, 16 with each
// warp. The keys that they look up pass through shared memory, then all that are ever selected.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_short_exact.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_short_warp.cuh"
#include "device/early_start.cuh"

namespace hax::sparse_attention {

// What a tile meets: rounds of all selected keys, then of key_order from `first` up to `end`.
struct ShortWalk {
  const int32_t *order, *eviction;
  FewSelected selected;
  int32_t first, end, length;
  int32_t selected_rounds, rounds;

  template <class Shape>
  __device__ static ShortWalk plan(const PatternView& view, const FewSelected& selected,
                                   int32_t begin, int32_t end) {
    const auto rounds_of = [](int32_t keys) { return (keys + Shape::kRows - 1) / Shape::kRows; };
    ShortWalk walk = {view.order, view.eviction, selected, 0, end, view.length, 0, 0};
    walk.selected_rounds = walk.rounds = rounds_of(selected.length);
    if (begin < end) {
      walk.first = begin / kShortKeys * kShortKeys;
      walk.rounds += rounds_of(end - walk.first);
    }
    return walk;
  }
};

// A thread's share of the copies: part of a row of every stage.
template <class Shape>
class ShortCopies {
 public:
  using T = typename Shape::Type;
  static constexpr int kPasses = Shape::kRows * kShortRowLanes / Shape::kThreads;
  static constexpr int kRowsAtOnce = Shape::kRows / kPasses;

  struct Keys {
    int32_t of[kPasses];
  };

  __device__ __forceinline__ ShortCopies(const ShortWalk& walk, const RowsView<T>& k,
                                         const RowsView<T>& v)
      : walk_(walk),
        k_(k),
        v_(v),
        row_(static_cast<int>(threadIdx.x) / kShortRowLanes),
        lane_(static_cast<int>(threadIdx.x) % kShortRowLanes) {}

  // The keys of a round, -1 where there is none.
  __device__ __forceinline__ Keys find(int round) const {
    const bool selected = round < walk_.selected_rounds;
    const int32_t limit = selected ? walk_.selected.length : walk_.end;
    int32_t at = row_ + (selected ? round * Shape::kRows
                                  : (round - walk_.selected_rounds) * Shape::kRows + walk_.first);
    Keys keys;
#pragma unroll
    for (int i = 0; i < kPasses; ++i, at += kRowsAtOnce) {
      const int32_t* const from = selected ? &walk_.selected.keys[at].key : walk_.order + at;
      keys.of[i] = at < limit ? clamp_index(*from, walk_.length - 1) : -1;
    }
    return keys;
  }

  __device__ __forceinline__ void begin(ShortStage<Shape>& stage, const Keys& keys) const {
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int32_t key = keys.of[i], token = max(key, 0);
      const int row = row_ + i * kRowsAtOnce;
      copy<Shape::kWidthQk>(stage.keys + row * Shape::kStrideQk, k_, token, key >= 0);
      copy<kShortWidthV>(stage.values + row * Shape::kStrideV, v_, token, key >= 0);
      if (lane_ != 0) continue;
      ShortKey& mark = stage.marks[row];
      mark.position = key < 0 ? INT_MAX : key;
      device::copy_async<sizeof(int32_t)>(&mark.eviction, walk_.eviction + token);
    }
  }

 private:
  template <int kColumns>
  __device__ __forceinline__ void copy(T* to, const RowsView<T>& from, int32_t token,
                                       bool valid) const {
    const int width = valid ? from.columns : 0;
    const T* const row = short_row(from, token) + lane_ * 8;
#pragma unroll
    for (int c = 0; c < kColumns; c += kShortRowLanes * 8) {
      device::copy_async_16(to + lane_ * 8 + c, row + c, c + lane_ * 8 < width);
    }
  }

  const ShortWalk& walk_;
  const RowsView<T>&k_, &v_;
  const int row_, lane_;
};

template <class Shape>
struct ShortMemory {
  ShortStage<Shape> stages[Shape::kStages];
  int2 bounds[Shape::kWarps];
};

// Takes the rounds of the walk. Once all are copied, warps go their own ways.
template <class Shape>
__device__ __forceinline__ void take_rounds(ShortWarp<Shape>& warp, const ShortWalk& walk,
                                            const ShortCopies<Shape>& copies,
                                            ShortMemory<Shape>& shared) {
  constexpr int kAhead = Shape::kStages - 1;
  typename ShortCopies<Shape>::Keys keys[kAhead + 1];
#pragma unroll
  for (int r = 0; r <= kAhead; ++r) keys[r] = copies.find(r);
#pragma unroll
  for (int r = 0; r < kAhead; ++r) {
    copies.begin(shared.stages[r], keys[r]);
    device::commit_copies();
  }
  auto next = keys[kAhead];
  int stage = 0, into = kAhead;
#pragma unroll 1
  for (int round = 0; round < walk.rounds; ++round) {
    const int left = walk.rounds - round;
    if (left > kAhead) {
      device::wait_for_copies<kAhead - 1>();
      __syncthreads();
      copies.begin(shared.stages[into], next);
      device::commit_copies();
      next = copies.find(round + kAhead + 1);
    } else if (left == kAhead || round == 0) {
      device::wait_for_copies<0>();
      __syncthreads();
    }
    const bool looked_up = round >= walk.selected_rounds;
#pragma unroll 1
    for (int step = 0; step < kShortSteps; ++step) {
      const int32_t rank =
          walk.first + (round - walk.selected_rounds) * Shape::kRows + step * kShortKeys;
      warp.take_step(shared.stages[stage], step, looked_up, rank);
    }
    into = stage;
    stage = stage + 1 < Shape::kStages ? stage + 1 : 0;
  }
  device::wait_for_copies<0>();
  __syncthreads();
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    short_forward_kernel(const __grid_constant__ ForwardParams p,
                         const __grid_constant__ CudaForwardPlan plan) {
  using T = typename Shape::Type;
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  auto& shared = *reinterpret_cast<ShortMemory<Shape>*>(dynamic_shared);
  device::wait_for_previous();
  // The last tile of a row is often a part of one: those come last.
  const auto rows = static_cast<uint32_t>(p.sequences.batch * p.q_heads);
  const uint32_t place = blockIdx.x / rows, query_row = blockIdx.x % rows;
  const auto heads = static_cast<uint32_t>(p.q_heads), group = static_cast<uint32_t>(p.group());
  const uint32_t row = heads > 1 ? query_row / heads : query_row;
  const uint32_t q_head = query_row - row * heads, k_head = group > 1 ? q_head / group : q_head;
  const TileRange tile = find_tile_by_warp(p.sequences, {Shape::kQueries}, row, place);
  if (tile.first >= tile.last || tile.range.length > kDenseLength) return;
  const int lane = static_cast<int>(threadIdx.x % 32),
            warp_number = static_cast<int>(threadIdx.x / 32);

  const int64_t at = tile.first + warp_number * kShortWarpQueries + lane % kShortWarpQueries;
  Query query;
  if (at < tile.last) {
    const OrderedQuery own =
        plan.lists.short_queries[query_row * p.sequences.length + tile.range.begin + at];
    query = {own.position, own.begin, own.end};
  }
  const FewSelected selected =
      find_short_selected(plan.lists, p.sequences, tile, row * p.k_heads + k_head);
  ShortWarp<Shape> warp(query, p.scale);
  if (lane == 0) shared.bounds[warp_number] = {warp.bounds().begin, warp.bounds().end};
  warp.load_queries(RowsView<T>(p.q, tile.range, q_head, true));
  __syncthreads();
  const int2 bounds = shared.bounds[lane % Shape::kWarps];
  const PatternView view(p.pattern, tile.range, k_head);
  const ShortWalk walk =
      ShortWalk::plan<Shape>(view, selected, __reduce_min_sync(0xffffffffu, bounds.x),
                             __reduce_max_sync(0xffffffffu, bounds.y));
  const RowsView<T> k(p.k, tile.range, k_head, true), v(p.v, tile.range, k_head, true);
  take_rounds(warp, walk, ShortCopies<Shape>(walk, k, v), shared);

  uint32_t words[ShortWarp<Shape>::kBlocksV][2];
  const uint32_t bad = warp.finish(words);
  T* const rows_out =
      reinterpret_cast<T*>(dynamic_shared) + warp_number * kShortWarpQueries * Shape::kStrideV;
  warp.store(words, RowsView<T>(p.o, tile.range, q_head, true),
             p.lse ? p.lse.at<float>(row, q_head, tile.range.begin) : nullptr, p.lse.stride[2],
             rows_out, query, bad);
#pragma unroll 1
  for (uint32_t left = bad; left != 0; left &= left - 1) {
    const int r = __ffs(static_cast<int>(left)) - 1;
    const Query own = {__shfl_sync(0xffffffffu, query.position, r),
                       __shfl_sync(0xffffffffu, query.begin, r),
                       __shfl_sync(0xffffffffu, query.end, r)};
    exact_row<T>(p, tile.range, view, selected, q_head, k_head, own);
  }
}

}  // namespace hax::sparse_attention
