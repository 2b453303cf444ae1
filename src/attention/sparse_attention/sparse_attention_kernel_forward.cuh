// Forward: a block computes the outputs of 64 queries of one head, 16 with each warp, while the steps of keys that
// they meet pass through shared memory.
#pragma once

#include <new>

#include "attention/sparse_attention/sparse_attention_kernel_forward_tile.cuh"

namespace hax::sparse_attention {

// Takes the steps of the tile's walk. Always inline, so that the tile stays in registers.
template <bool infinities, class Shape>
__device__ __forceinline__ void take_steps(ForwardTile<Shape>& work,
                                           KeyWalk<Shape::kKeys, kForwardWarps>& walk,
                                           ForwardShared<Shape>& shared,
                                           const RowsView<typename Shape::Type>& k,
                                           const RowsView<typename Shape::Type>& v) {
  constexpr int kStages = Shape::kStages;
  walk.start();
  int loaded = 0, stage_in = 0, stage = 0;
  const auto following = [](int s) { return s + 1 < kStages ? s + 1 : 0; };
  for (int step = 1 - kStages; step < 0 || step < loaded; ++step) {
    if (step >= 0) {
      device::wait_for_copies<kStages - 2>();
      __syncthreads();
      walk.passed_barrier();
    }
    const int next = walk.next();
    if (next >= 0) {
      work.load_step(stage_in, shared.walk.steps[next], k, v);
      stage_in = following(stage_in);
      ++loaded;
    }
    device::commit_copies();
    if (step >= 0) {
      work.template take_step<infinities>(stage);
      stage = following(stage);
    }
    walk.settle();
  }
}

// The walk of a tile in the order of positions. list: null without one.
template <int kKeys>
__device__ void plan_natural_walk(WalkPlan& walk, const Pattern& pattern, const TileRange& tile,
                                  const SelectionList& list) {
  const bool full = pattern.has(HAX_PATTERN_FULL);
  const Rule rule = pattern.has(HAX_PATTERN_LSH) && !full ? Rule::own_not_lsh : Rule::own;
  if (full) return walk.add(Source::interval, rule, 0, tile.last);
  // Keys before the window's come from other segments. Steps begin at multiples of their length.
  int64_t window = tile.last;
  if (pattern.has(HAX_PATTERN_SLIDING_WINDOW)) {
    window = max(tile.first - pattern.window + 1, int64_t{0}) / kKeys * kKeys;
  }
  const int64_t sink = min((pattern.sink + kKeys - 1) / kKeys * kKeys, window);
  walk.add(Source::interval, rule, 0, sink);
  if (pattern.has(HAX_PATTERN_KEY_SELECTION) && !list.keys) {
    return walk.add(Source::interval, rule, sink, tile.last);
  }
  if (pattern.has(HAX_PATTERN_DILATED)) walk.add_dilated(rule, sink, window, pattern.dilation);
  if (list.keys) walk.add_list(rule, list, sink, window);
  walk.add(Source::interval, rule, window, tile.last);
}

// The walk of a tile in the order of the keys that LSH looks up, and whether it meets the other patterns' keys as
// well: all keys of a short sequence, or the selected ones if they are few.
__device__ inline void plan_bucket_walk(WalkPlan& walk, int64_t length, const FewSelected& few,
                                        bool all_keys) {
  walk.add(Source::order, Rule::lsh, 0, length);
  if (few.keys) {
    walk.add_few(Rule::own_not_lsh, few);
  } else if (all_keys) {
    walk.add(Source::interval, Rule::own_not_lsh, 0, length);
  }
}

// One tile, in the order of positions or in that of the keys looked up by LSH (bucket_order). That comes first, and
// often nothing is left to do afterwards.
template <class Shape>
__global__ void __launch_bounds__(kForwardThreads, Shape::kBlocks)
    forward_kernel(const __grid_constant__ ForwardParams p,
                   const __grid_constant__ CudaForwardPlan plan, const bool bucket_order) {
  using T = typename Shape::Type;
  constexpr int kKeys = Shape::kKeys;
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  auto& shared = *reinterpret_cast<ForwardShared<Shape>*>(dynamic_shared);
  T* const memory = reinterpret_cast<T*>(dynamic_shared + kForwardSharedBytes<Shape>);

  const Pattern& pattern = p.pattern;
  // Neighbouring blocks work on the heads of the same tokens. There are less than 2^31 blocks.
  const auto heads = static_cast<uint32_t>(p.q_heads);
  const auto places = static_cast<uint32_t>(Tiling{kTileTokens}.places(p.sequences));
  const uint32_t q_head = blockIdx.x % heads;
  const uint32_t place = blockIdx.x / heads % places;
  const int64_t row = blockIdx.x / heads / places;
  const TileRange tile = find_tile(p.sequences, {kTileTokens}, row, place);
  if (tile.first >= tile.last) return;
  const int64_t k_head = q_head / (heads / static_cast<uint32_t>(p.k_heads));
  const int64_t key_row = row * p.k_heads + k_head;
  const bool is_short = tile.range.length <= kDenseLength;
  if (is_short && plan.lists.short_queries) return;  // short_forward_kernel's
  const FewSelected few = find_few_selected(plan.lists, p.sequences, tile, key_row);
  // Whether the order of the ranges does for all patterns.
  const bool bucket_order_alone = plan.path.lsh && (is_short || few.keys || !plan.path.others);
  if (!bucket_order && bucket_order_alone) return;
  const bool resumes = plan.path.lsh && !bucket_order;
  const bool final = !bucket_order || bucket_order_alone;

  const int64_t row_begin = (row * p.q_heads + q_head) * p.sequences.length + tile.range.begin;
  if (threadIdx.x < kTileTokens) {
    PatternView view(pattern, tile.range, k_head);
    if (plan.indices.key_rank) {
      view.rank = plan.indices.key_rank + key_row * p.sequences.length + tile.range.begin;
    }
    int64_t at = tile.first + threadIdx.x;
    Query query;
    if (at < tile.last) {
      if (bucket_order) at = clamp_index(plan.indices.query_order[row_begin + at], view.length - 1);
      query = read_query(pattern, tile.range, static_cast<int32_t>(at), q_head);
    }
    shared.walk.queries[threadIdx.x] = query;
    if (threadIdx.x == 0) {
      WalkPlan& walk = shared.walk.plan;
      walk.count = 0;
      if (bucket_order) {
        plan_bucket_walk(walk, view.length, few, is_short && plan.path.others);
      } else {
        plan_natural_walk<kKeys>(walk, pattern, tile,
                                 find_list(plan.lists, p.sequences, tile, key_row));
      }
      new (&shared.walk.view) PatternView(view);
    }
  }
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x / 32);
  const TileBounds bounds =
      bounds_of(shared.walk.queries[warp * kWarpQueries + threadIdx.x % kWarpQueries]);
  if (threadIdx.x % 32 == 0) shared.walk.bounds[warp] = bounds;

  ForwardTile<Shape> work(shared, memory, p.scale);
  const RowsView<T> k(p.k, tile.range, k_head, plan.vectors_k);
  const RowsView<T> v(p.v, tile.range, k_head, plan.vectors_v);
  work.load_queries(RowsView<T>(p.q, tile.range, q_head, plan.vectors_q));
  __syncthreads();

  float* const log2_sums = reinterpret_cast<float*>(plan.indices.per_query) + row_begin;
  KeyWalk<kKeys, kForwardWarps> walk(shared.walk);
  // A value that isn't finite makes outputs NaN that have nothing to do with it: then all is done once more.
  for (bool repeated = false;; repeated = true) {
    work.start();
    if (resumes) {
      work.resume(RowsView<T>(p.o, tile.range, q_head, plan.vectors_o), log2_sums);
    }
    if (repeated) {
      take_steps<true>(work, walk, shared, k, v);
    } else {
      take_steps<false>(work, walk, shared, k, v);
    }
    device::wait_for_copies<0>();  // of the queries, where there was no step
    if (!__syncthreads_or(work.infinite()) || repeated) break;
  }
  work.finish(final);
  float* const lse = p.lse && final ? p.lse.at<float>(row, q_head, tile.range.begin) : nullptr;
  work.store_sums(final ? nullptr : log2_sums, lse, p.lse.stride[2]);
  work.store_outputs(RowsView<T>(p.o, tile.range, q_head, plan.vectors_o));
}

}  // namespace hax::sparse_attention
