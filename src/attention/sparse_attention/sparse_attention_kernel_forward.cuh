// Forward: a block computes the outputs of 64 queries of one head, 16 with each warp, while the steps of keys that
// they meet pass through shared memory.
#pragma once

#include <new>

#include "attention/sparse_attention/sparse_attention_kernel_mma.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_rows.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_softmax.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_walk.cuh"

namespace hax::sparse_attention {

inline constexpr int kForwardThreads = 128;
inline constexpr int kWarpQueries = 16;
static_assert(kForwardThreads / 32 * kWarpQueries == kTileTokens);

// The kernel for queries and keys of up to kWidthQk columns, values of up to kWidthV.
template <class T, int kWidthQk_, int kWidthV_>
struct ForwardShape {
  using Type = T;
  static constexpr int kWidthQk = kWidthQk_, kWidthV = kWidthV_;
  static constexpr int kKeys = sizeof(T) == 4 ? 8 : kWidthV > 128 ? 16 : 32;  // of a step
  static constexpr int kStages = sizeof(T) == 4 ? 2 : 3;
  static constexpr int kBlocks = kWidthV > 128 ? 2 : kWidthV > 64 ? 3 : 4;  // of an SM at least
  static constexpr int kStrideQk = kWidthQk + kRowPadding<T>;
  static constexpr int kStrideV = kWidthV + kRowPadding<T>;

  // Elements of shared memory: queries, stages, and in the same place 16-bit outputs on their way.
  static constexpr int kQueries = kTileTokens * kStrideQk;
  static constexpr int kStage = kKeys * (kStrideQk + kStrideV);
  static constexpr int kInputs = kQueries + kStages * kStage;
  static constexpr int kOutputs = sizeof(T) == 2 ? kTileTokens * kStrideV : 0;
  static constexpr int kElements = kInputs > kOutputs ? kInputs : kOutputs;
};

// What the tests of a step's keys need, in shared memory.
template <int kKeys>
struct StepKeys {
  Rule rule;
  int32_t position[kKeys];
  uint32_t span[kKeys];
  int32_t rank[kKeys];
};

template <class Shape>
struct ForwardShared {
  PatternView view;
  WalkPlan walk;
  Query queries[kTileTokens];
  TileBounds bounds, warp_bounds[kForwardThreads / 32];
  StepKeys<Shape::kKeys> keys[Shape::kStages];
};

template <class Shape>
inline constexpr int kForwardSharedBytes = static_cast<int>((sizeof(ForwardShared<Shape>) + 15) /
                                                            16 * 16);

template <class Shape>
inline constexpr size_t kForwardSharedSize = kForwardSharedBytes<Shape> +
                                             Shape::kElements * sizeof(typename Shape::Type);

// Bounds of all and of each warp's own queries; followed by a barrier before they are read by others.
template <class Shape>
__device__ void find_bounds(ForwardShared<Shape>& shared) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const Query& own = shared.queries[warp * kWarpQueries + lane % kWarpQueries];
  const TileBounds of_warp = bounds_of(own, own);
  const TileBounds of_all = bounds_of(shared.queries[lane], shared.queries[lane + 32]);
  if (lane == 0) {
    shared.warp_bounds[warp] = of_warp;
    if (warp == 0) shared.bounds = of_all;
  }
  __syncthreads();
}

template <class Shape>
class ForwardTile {
 public:
  using T = typename Shape::Type;
  static constexpr int kKeys = Shape::kKeys;
  static constexpr int kRowsAtOnce = kForwardThreads / kRowLanes;
  static constexpr int kScores = kKeys / 8;
  static constexpr int kBlocksV = Shape::kWidthV / 8;
  using Products = WarpProducts<T>;

  __device__ ForwardTile(ForwardShared<Shape>& shared, T* memory, float scale)
      : shared_(shared),
        memory_(memory),
        scale_(scale * device::kLog2E),
        lane_(static_cast<int>(threadIdx.x % 32)),
        warp_(static_cast<int>(threadIdx.x / 32)) {}

  __device__ T* stage_keys(int stage) const {
    return memory_ + Shape::kQueries + stage * Shape::kStage;
  }
  __device__ T* stage_values(int stage) const {
    return stage_keys(stage) + kKeys * Shape::kStrideQk;
  }
  __device__ const Query& own_query(int row) const {
    return shared_.queries[warp_ * kWarpQueries + lane_ / 4 + row * 8];
  }

  __device__ __forceinline__ void load_queries(const RowsView<T>& q) const {
#pragma unroll
    for (int first = 0; first < kTileTokens; first += kRowsAtOnce) {
      const int r = first + static_cast<int>(threadIdx.x) / kRowLanes;
      copy_row<Shape::kWidthQk>(memory_ + r * Shape::kStrideQk, q, shared_.queries[r].position,
                                lane_ % kRowLanes);
    }
  }

  // Begins to copy a step's keys and values.
  __device__ __forceinline__ void load_step(int stage, const Key& key, Rule rule,
                                            const RowsView<T>& k, const RowsView<T>& v) const {
#pragma unroll
    for (int first = 0; first < kKeys; first += kRowsAtOnce) {
      const int n = first + static_cast<int>(threadIdx.x) / kRowLanes;
      if (kKeys % kRowsAtOnce != 0 && n >= kKeys) break;
      const int32_t position = __shfl_sync(0xffffffffu, key.position, n);
      copy_row<Shape::kWidthQk>(stage_keys(stage) + n * Shape::kStrideQk, k, position,
                                lane_ % kRowLanes);
      copy_row<Shape::kWidthV>(stage_values(stage) + n * Shape::kStrideV, v, position,
                               lane_ % kRowLanes);
    }
    if (threadIdx.x >= kKeys) return;
    StepKeys<kKeys>& keys = shared_.keys[stage];
    keys.rule = rule;
    keys.position[lane_] = key.position;
    keys.span[lane_] = key.span;
    keys.rank[lane_] = key.rank;
  }

  __device__ __forceinline__ void start() {
    softmax_ = {};
#pragma unroll
    for (int n = 0; n < kBlocksV; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out_[n][e] = 0.0f;
    }
  }

  // Goes on from outputs and their sums that were stored before.
  __device__ __forceinline__ void resume(const RowsView<T>& o, const float* log2_sums) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int32_t i = own_query(row).position;
      if (i < 0) continue;
      softmax_.resume(row, log2_sums[i], lane_);
      const T* from = o.row(i);
#pragma unroll
      for (int n = 0; n < kBlocksV; ++n) {
        const int c = n * 8 + lane_ % 4 * 2;
        float pair[2] = {0.0f, 0.0f};
        if (o.vectors) {
          if (c < o.width())
            device::unpack(pair, device::Packed<T, 2>(
                                     *reinterpret_cast<const device::Packed<T, 2>*>(from + c)));
        } else {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            if (c + e < o.width()) pair[e] = device::to_float(from[(c + e) * o.column_stride()]);
          }
        }
        out_[n][2 * row] = pair[0];
        out_[n][2 * row + 1] = pair[1];
      }
    }
  }

  template <bool infinities>
  __device__ __forceinline__ void take_step(int stage) {
    const StepKeys<kKeys>& keys = shared_.keys[stage];
    const Rule rule = keys.rule;
    Key key;
    if (lane_ < kKeys) key = {keys.position[lane_], keys.span[lane_], keys.rank[lane_]};
    const Coverage coverage(key, shared_.warp_bounds[warp_], rule);
    if (!__any_sync(0xffffffffu, coverage.some)) return;
    float s[kScores][4] = {};
    Products::template scores<Shape::kWidthQk, Shape::kStrideQk>(
        s, memory_ + warp_ * kWarpQueries * Shape::kStrideQk, stage_keys(stage), lane_);
#pragma unroll
    for (int n = 0; n < kScores; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[n][e] = above_infinity(s[n][e] * scale_);
    }
    if (!__all_sync(0xffffffffu, coverage.all || lane_ >= kKeys)) {
      if (rule == Rule::own) mask<Rule::own>(s, keys);
      if (rule == Rule::lsh) mask<Rule::lsh>(s, keys);
      if (rule == Rule::own_not_lsh) mask<Rule::own_not_lsh>(s, keys);
    }
    float correction[2];
    softmax_.take(s, correction);
    if (__any_sync(0xffffffffu, correction[0] != 1.0f || correction[1] != 1.0f)) {
#pragma unroll
      for (int n = 0; n < kBlocksV; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) out_[n][e] *= correction[e / 2];
      }
    }
    if constexpr (infinities) {
      Products::template outputs_with_infinities<Shape::kStrideV>(out_, s, stage_values(stage),
                                                                  lane_);
    } else {
      Products::template outputs<Shape::kStrideV>(out_, s, stage_values(stage), lane_);
    }
  }

  // Whether an output became infinite or NaN.
  __device__ __forceinline__ bool infinite() const {
    float zero = 0.0f;
#pragma unroll
    for (int n = 0; n < kBlocksV; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) zero = fmaf(out_[n][e], 0.0f, zero);
    }
    return zero != 0.0f;
  }

  // Divides by the sums; where these are final, rows of nothing but -infinity become NaN.
  __device__ __forceinline__ void finish(bool final) {
    softmax_.finish();
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float factor = softmax_.empty(row) ? 0.0f : 1.0f / softmax_.sum[row];
      if (final && softmax_.undefined(row)) factor = NAN;
#pragma unroll
      for (int n = 0; n < kBlocksV; ++n) {
        out_[n][2 * row] *= factor;
        out_[n][2 * row + 1] *= factor;
      }
    }
  }

  // log2_sums and lse may be null; lse's stride is in elements.
  __device__ __forceinline__ void store_sums(float* log2_sums, float* lse,
                                             int64_t lse_stride) const {
    if (lane_ % 4 != 0) return;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int32_t i = own_query(row).position;
      if (i < 0) continue;
      const float sum = softmax_.empty(row) ? -INFINITY : softmax_.log2_sum(row);
      if (log2_sums) log2_sums[i] = sum;
      if (lse) lse[i * lse_stride] = softmax_.undefined(row) ? -INFINITY : sum * device::kLn2;
    }
  }

  // 16-bit outputs are gathered in shared memory first, which no warp needs any more, and leave in whole rows.
  __device__ __forceinline__ void store_outputs(const RowsView<T>& o) const {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const int32_t i = own_query(row).position;
        if (i < 0) continue;
        T* to = o.row(i);
#pragma unroll
        for (int n = 0; n < kBlocksV; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int c = n * 8 + lane_ % 4 * 2 + e;
            if (c < o.width()) to[c * o.column_stride()] = out_[n][2 * row + e];
          }
        }
      }
    } else {
      T* own = memory_ + warp_ * kWarpQueries * Shape::kStrideV;
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        T* to = own + (lane_ / 4 + row * 8) * Shape::kStrideV + lane_ % 4 * 2;
#pragma unroll
        for (int n = 0; n < kBlocksV; ++n) {
          *reinterpret_cast<uint32_t*>(to + n * 8) =
              pack_pair<T>(out_[n][2 * row], out_[n][2 * row + 1]);
        }
      }
      __syncwarp();
      for (int r = lane_ / 8; r < kWarpQueries; r += 4) {
        store_row(o, shared_.queries[warp_ * kWarpQueries + r].position, own + r * Shape::kStrideV,
                  lane_ % 8);
      }
    }
  }

 private:
  template <Rule rule>
  __device__ __forceinline__ void mask(float (&s)[kScores][4], const StepKeys<kKeys>& keys) const {
    const Query queries[2] = {own_query(0), own_query(1)};
#pragma unroll
    for (int n = 0; n < kScores; ++n) {
      const int at = n * 8 + lane_ % 4 * 2;
      const int2 position = *reinterpret_cast<const int2*>(&keys.position[at]);
      const uint2 span = *reinterpret_cast<const uint2*>(&keys.span[at]);
      int2 rank = {-1, -1};
      if (rule != Rule::own) rank = *reinterpret_cast<const int2*>(&keys.rank[at]);
      const Key pair[2] = {{position.x, span.x, rank.x}, {position.y, span.y, rank.y}};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (!selects<rule>(queries[e / 2], pair[e % 2])) s[n][e] = -INFINITY;
      }
    }
  }

  ForwardShared<Shape>& shared_;
  T* const memory_;
  const float scale_;
  const int lane_, warp_;
  RunningSoftmax softmax_;
  float out_[kBlocksV][4];
};

// Takes the steps of the tile's walk. Always inline, so that the tile stays in registers.
template <bool infinities, class Shape>
__device__ __forceinline__ void take_steps(ForwardTile<Shape>& work, KeyWalk<Shape::kKeys>& walk,
                                           const RowsView<typename Shape::Type>& k,
                                           const RowsView<typename Shape::Type>& v) {
  constexpr int kStages = Shape::kStages;
  walk.start();
  bool more = true;
  int loaded = 0, stage_in = 0, stage = 0;
  const auto following = [](int s) { return s + 1 < kStages ? s + 1 : 0; };
  for (int step = 1 - kStages; step < 0 || step < loaded; ++step) {
    if (step >= 0) {
      device::wait_for_copies<kStages - 2>();
      __syncthreads();
    }
    Key key;
    Rule rule;
    more = more && walk.next(key, rule);
    if (more) {
      work.load_step(stage_in, key, rule, k, v);
      stage_in = following(stage_in);
      ++loaded;
    }
    device::commit_copies();
    if (step < 0) continue;
    work.template take_step<infinities>(stage);
    stage = following(stage);
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
__device__ inline void plan_bucket_walk(WalkPlan& walk, int64_t length, const SelectionList& few,
                                        bool all_keys) {
  walk.add(Source::order, Rule::lsh, 0, length);
  if (few.keys) {
    walk.add_list(Rule::own_not_lsh, few, 0, length);
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
  const SelectionList few = find_few_selected(plan.lists, p.sequences, tile, key_row);
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
    shared.queries[threadIdx.x] = query;
    if (threadIdx.x == 0) {
      shared.walk.count = 0;
      if (bucket_order) {
        plan_bucket_walk(shared.walk, view.length, few, is_short && plan.path.others);
      } else {
        plan_natural_walk<kKeys>(shared.walk, pattern, tile,
                                 find_list(plan.lists, p.sequences, tile, key_row));
      }
      new (&shared.view) PatternView(view);
    }
  }
  __syncthreads();
  find_bounds(shared);

  ForwardTile<Shape> work(shared, memory, p.scale);
  const RowsView<T> k(p.k, tile.range, k_head, plan.vectors_k);
  const RowsView<T> v(p.v, tile.range, k_head, plan.vectors_v);
  work.load_queries(RowsView<T>(p.q, tile.range, q_head, plan.vectors_q));

  float* const log2_sums = reinterpret_cast<float*>(plan.indices.per_query) + row_begin;
  KeyWalk<kKeys> walk(shared.view, shared.walk, shared.queries, shared.bounds);
  // A value that isn't finite makes outputs NaN that have nothing to do with it: then all is done once more.
  for (bool repeated = false;; repeated = true) {
    work.start();
    if (resumes) {
      work.resume(RowsView<T>(p.o, tile.range, q_head, plan.vectors_o), log2_sums);
    }
    if (repeated) {
      take_steps<true>(work, walk, k, v);
    } else {
      take_steps<false>(work, walk, k, v);
    }
    if (!__syncthreads_or(work.infinite()) || repeated) break;
  }
  work.finish(final);
  float* const lse = p.lse && final ? p.lse.at<float>(row, q_head, tile.range.begin) : nullptr;
  work.store_sums(final ? nullptr : log2_sums, lse, p.lse.stride[2]);
  work.store_outputs(RowsView<T>(p.o, tile.range, q_head, plan.vectors_o));
}

}  // namespace hax::sparse_attention
