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

// Shared memory of the kernel for values of up to kWidthV columns.
template <class T, int kWidth>
struct ForwardShape {
  using Type = T;
  static constexpr int kWidthV = kWidth;
  static constexpr int kKeys = sizeof(T) == 4 ? 8 : kWidth > 128 ? 16 : 32;  // of a step
  static constexpr int kStages = sizeof(T) == 4 ? 2 : 3;
  static constexpr int kBlocks = kWidth > 128 ? 2 : kWidth > 64 ? 3 : 4;  // of an SM at least
  static constexpr int kStrideV = kWidthV + kRowPadding<T>;

  int width_qk;  // whole fragments

  HAX_EVERYWHERE explicit ForwardShape(int64_t d_qk) {
    constexpr int kFragment = 32 / static_cast<int>(sizeof(T));
    width_qk = static_cast<int>((d_qk + kFragment - 1) / kFragment) * kFragment;
  }
  HAX_EVERYWHERE int stride_qk() const { return width_qk + kRowPadding<T>; }
  HAX_EVERYWHERE int stage_elements() const { return kKeys * (stride_qk() + kStrideV); }
  HAX_EVERYWHERE int query_elements() const { return kTileTokens * stride_qk(); }
  // 16-bit outputs pass through the same memory.
  HAX_EVERYWHERE int elements() const {
    const int inputs = query_elements() + kStages * stage_elements();
    const int outputs = sizeof(T) == 2 ? kTileTokens * kStrideV : 0;
    return inputs > outputs ? inputs : outputs;
  }
};

// What the tests of a step's keys need, in shared memory.
template <int kKeys>
struct StepKeys {
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
inline int64_t forward_shared_bytes(int64_t d_qk) {
  return kForwardSharedBytes<Shape> +
         Shape(d_qk).elements() * static_cast<int64_t>(sizeof(typename Shape::Type));
}

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
  static constexpr int kScores = kKeys / 8;
  static constexpr int kOutputs = Shape::kWidthV / 8;
  using Products = WarpProducts<T>;

  __device__ ForwardTile(const Shape& shape, ForwardShared<Shape>& shared, T* memory, float scale)
      : shape_(shape),
        shared_(shared),
        memory_(memory),
        scale_(scale * device::kLog2E),
        lane_(static_cast<int>(threadIdx.x % 32)),
        warp_(static_cast<int>(threadIdx.x / 32)) {}

  __device__ T* stage_keys(int stage) const {
    return memory_ + shape_.query_elements() + stage * shape_.stage_elements();
  }
  __device__ T* stage_values(int stage) const {
    return stage_keys(stage) + kKeys * shape_.stride_qk();
  }
  __device__ const Query& own_query(int row) const {
    return shared_.queries[warp_ * kWarpQueries + lane_ / 4 + row * 8];
  }

  __device__ __forceinline__ void load_queries(const RowsView<T>& q) const {
    for (int r = static_cast<int>(threadIdx.x) / 8; r < kTileTokens; r += kForwardThreads / 8) {
      copy_row(memory_ + r * shape_.stride_qk(), q, shared_.queries[r].position, shape_.width_qk,
               lane_ % 8);
    }
  }

  // Begins to copy a step's keys and values.
  __device__ __forceinline__ void load_step(int stage, const Key& key, const RowsView<T>& k,
                                            const RowsView<T>& v) const {
    for (int n = static_cast<int>(threadIdx.x) / 8; n < kKeys; n += kForwardThreads / 8) {
      const int32_t position = __shfl_sync(0xffffffffu, key.position, n);
      copy_row(stage_keys(stage) + n * shape_.stride_qk(), k, position, shape_.width_qk, lane_ % 8);
      copy_row(stage_values(stage) + n * Shape::kStrideV, v, position, Shape::kWidthV, lane_ % 8);
    }
    if (threadIdx.x >= kKeys) return;
    StepKeys<kKeys>& keys = shared_.keys[stage];
    keys.position[lane_] = key.position;
    keys.span[lane_] = key.span;
    keys.rank[lane_] = key.rank;
  }

  __device__ __forceinline__ void start() {
    softmax_ = {};
#pragma unroll
    for (int n = 0; n < kOutputs; ++n) {
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
      for (int n = 0; n < kOutputs; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int c = n * 8 + lane_ % 4 * 2 + e;
          if (c < o.width()) out_[n][2 * row + e] = device::to_float(from[c * o.column_stride()]);
        }
      }
    }
  }

  template <bool infinities>
  __device__ __forceinline__ void take_step(int stage, Rule rule) {
    const StepKeys<kKeys>& keys = shared_.keys[stage];
    Key key;
    if (lane_ < kKeys) key = {keys.position[lane_], keys.span[lane_], keys.rank[lane_]};
    const Coverage coverage(key, shared_.warp_bounds[warp_], rule);
    if (!__any_sync(0xffffffffu, coverage.some)) return;
    float s[kScores][4] = {};
    Products::scores(s, memory_ + warp_ * kWarpQueries * shape_.stride_qk(), stage_keys(stage),
                     shape_.stride_qk(), shape_.width_qk, lane_);
#pragma unroll
    for (int n = 0; n < kScores; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[n][e] = above_infinity(s[n][e] * scale_);
    }
    if (!__all_sync(0xffffffffu, coverage.all || lane_ >= kKeys)) {
      if (rule == Rule::own) mask<Rule::own>(s, keys);
      if (rule == Rule::either) mask<Rule::either>(s, keys);
      if (rule == Rule::own_not_lsh) mask<Rule::own_not_lsh>(s, keys);
    }
    float correction[2];
    softmax_.take(s, correction);
    if (__any_sync(0xffffffffu, correction[0] != 1.0f || correction[1] != 1.0f)) {
#pragma unroll
      for (int n = 0; n < kOutputs; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) out_[n][e] *= correction[e / 2];
      }
    }
    if constexpr (infinities) {
      Products::outputs_with_infinities(out_, s, stage_values(stage), Shape::kStrideV, lane_);
    } else {
      Products::outputs(out_, s, stage_values(stage), Shape::kStrideV, lane_);
    }
  }

  // Whether an output became infinite or NaN.
  __device__ __forceinline__ bool infinite() const {
    float zero = 0.0f;
#pragma unroll
    for (int n = 0; n < kOutputs; ++n) {
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
      for (int n = 0; n < kOutputs; ++n) {
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
        for (int n = 0; n < kOutputs; ++n) {
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
        for (int n = 0; n < kOutputs; ++n) {
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

  const Shape shape_;
  ForwardShared<Shape>& shared_;
  T* const memory_;
  const float scale_;
  const int lane_, warp_;
  RunningSoftmax softmax_;
  float out_[kOutputs][4];
};

// Takes the tile's whole walk and answers whether an output is infinite or NaN. before: outputs to go on from, or null.
// Always inline, so that the tile stays in registers.
template <bool infinities, class Shape>
__device__ __forceinline__ bool attend(ForwardTile<Shape>& work, KeyWalk<Shape::kKeys>& walk,
                                       Rule rule, const RowsView<typename Shape::Type>& k,
                                       const RowsView<typename Shape::Type>& v,
                                       const RowsView<typename Shape::Type>* before,
                                       const float* log2_sums) {
  constexpr int kStages = Shape::kStages;
  work.start();
  if (before) work.resume(*before, log2_sums);
  walk.start();
  bool more = true;
  int loaded = 0;
  for (int step = 1 - kStages; step < 0 || step < loaded; ++step) {
    if (step >= 0) {
      device::wait_for_copies<kStages - 2>();
      __syncthreads();
    }
    Key key;
    more = more && walk.next(key);
    if (more) work.load_step(loaded++ % kStages, key, k, v);
    device::commit_copies();
    if (step >= 0) work.template take_step<infinities>(step % kStages, rule);
  }
  return __syncthreads_or(work.infinite()) != 0;
}

// The walk of a tile in the order of positions; answers the rule for its pairs.
__device__ inline Rule natural_rule(const Pattern& pattern, bool dense) {
  if (pattern.has(HAX_PATTERN_FULL) || !pattern.has(HAX_PATTERN_LSH)) return Rule::own;
  return dense ? Rule::either : Rule::own_not_lsh;
}

template <int kKeys>
__device__ void plan_natural_walk(WalkPlan& walk, const Pattern& pattern, const TileRange& tile,
                                  const SelectionList& list, bool dense) {
  if (dense || pattern.has(HAX_PATTERN_FULL)) return walk.add(Source::interval, 0, tile.last);
  // Keys before the window's come from other segments. Steps begin at multiples of their length.
  int64_t window = tile.last;
  if (pattern.has(HAX_PATTERN_SLIDING_WINDOW)) {
    window = max(tile.first - pattern.window + 1, int64_t{0}) / kKeys * kKeys;
  }
  const int64_t sink = min((pattern.sink + kKeys - 1) / kKeys * kKeys, window);
  walk.add(Source::interval, 0, sink);
  if (pattern.has(HAX_PATTERN_KEY_SELECTION) && !list.keys) {
    return walk.add(Source::interval, sink, tile.last);
  }
  if (pattern.has(HAX_PATTERN_DILATED)) walk.add_dilated(sink, window, pattern.dilation);
  if (list.keys) walk.add_list(list, sink, window);
  walk.add(Source::interval, window, tile.last);
}

// One tile, in the order of positions or in that of the keys looked up by LSH (bucket_order), which comes first and
// leaves sequences with dense tiles out.
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
  const bool dense = (plan.path.lsh || plan.path.select) && tile.range.length <= kDenseLength;
  if (tile.first >= tile.last) return;
  if (bucket_order ? dense : !dense && !plan.path.others) return;

  const int64_t k_head = q_head / (heads / static_cast<uint32_t>(p.k_heads));
  const int64_t row_begin = (row * p.q_heads + q_head) * p.sequences.length + tile.range.begin;
  if (threadIdx.x < kTileTokens) {
    const int64_t key_row = row * p.k_heads + k_head;
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
        shared.walk.add(Source::order, 0, view.length);
      } else {
        plan_natural_walk<kKeys>(shared.walk, pattern, tile,
                                 find_list(plan.indices, p.sequences, tile, key_row), dense);
      }
      new (&shared.view) PatternView(view);
    }
  }
  __syncthreads();
  find_bounds(shared);

  ForwardTile<Shape> work(Shape(p.d_qk), shared, memory, p.scale);
  const RowsView<T> k(p.k, tile.range, k_head, plan.vectors_k);
  const RowsView<T> v(p.v, tile.range, k_head, plan.vectors_v);
  work.load_queries(RowsView<T>(p.q, tile.range, q_head, plan.vectors_q));

  const Rule rule = bucket_order ? Rule::either : natural_rule(pattern, dense);
  const bool final = !bucket_order || !plan.path.others;
  float* const log2_sums = reinterpret_cast<float*>(plan.indices.per_query) + row_begin;
  KeyWalk<kKeys> walk(shared.view, shared.walk, shared.queries, shared.bounds, rule);
  // A value that isn't finite makes outputs NaN that have nothing to do with it: then all is done once more.
  const RowsView<T> before(p.o, tile.range, q_head, false);
  const bool resumes = rule == Rule::own_not_lsh;
  if (attend<false>(work, walk, rule, k, v, resumes ? &before : nullptr, log2_sums)) {
    attend<true>(work, walk, rule, k, v, resumes ? &before : nullptr, log2_sums);
  }
  work.finish(final);
  float* const lse = p.lse && final ? p.lse.at<float>(row, q_head, tile.range.begin) : nullptr;
  work.store_sums(final ? nullptr : log2_sums, lse, p.lse.stride[2]);
  work.store_outputs(RowsView<T>(p.o, tile.range, q_head, plan.vectors_o));
}

}  // namespace hax::sparse_attention
