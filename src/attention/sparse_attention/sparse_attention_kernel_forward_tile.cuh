// What a block of the forward kernel holds: its shape, its shared memory, and the outputs of 64 queries in registers.
#pragma once

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
  static constexpr int kBlocks = kWidthV > 128 ? 2 : 3;  // of an SM at least
  static constexpr int kStrideQk = kWidthQk + kRowPadding<T>;
  static constexpr int kStrideV = kWidthV + kRowPadding<T>;

  // Elements of shared memory: queries, stages, and in the same place 16-bit outputs on their way.
  static constexpr int kQueries = kTileTokens * kStrideQk;
  static constexpr int kStage = kKeys * (kStrideQk + kStrideV);
  static constexpr int kInputs = kQueries + kStages * kStage;
  static constexpr int kOutputs = sizeof(T) == 2 ? kTileTokens * kStrideV : 0;
  static constexpr int kElements = kInputs > kOutputs ? kInputs : kOutputs;
};

inline constexpr int kForwardWarps = kForwardThreads / 32;

template <class Shape>
struct ForwardShared {
  WalkShared<Shape::kKeys, kForwardWarps> walk;
  Step<Shape::kKeys> stages[Shape::kStages];  // of the steps whose keys and values are in memory
};

template <class Shape>
inline constexpr int kForwardSharedBytes = static_cast<int>((sizeof(ForwardShared<Shape>) + 15) /
                                                            16 * 16);

template <class Shape>
inline constexpr size_t kForwardSharedSize = kForwardSharedBytes<Shape> +
                                             Shape::kElements * sizeof(typename Shape::Type);

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
    return shared_.walk.queries[warp_ * kWarpQueries + lane_ / 4 + row * 8];
  }

  __device__ __forceinline__ void load_queries(const RowsView<T>& q) const {
#pragma unroll
    for (int first = 0; first < kTileTokens; first += kRowsAtOnce) {
      const int r = first + static_cast<int>(threadIdx.x) / kRowLanes;
      const int32_t position = shared_.walk.queries[r].position;
      T* const to = memory_ + r * Shape::kStrideQk;
      if (q.vectors) {
        copy_vectors<Shape::kWidthQk>(to, q, position, lane_ % kRowLanes);
      } else {
        copy_elements(to, q, position, Shape::kWidthQk, lane_ % kRowLanes);
      }
    }
  }

  // Begins to copy a step's keys and values.
  __device__ __forceinline__ void load_step(int stage, const Step<kKeys>& step,
                                            const RowsView<T>& k, const RowsView<T>& v) const {
    const int lane = lane_ % kRowLanes, row = static_cast<int>(threadIdx.x) / kRowLanes;
    T* const to_k = stage_keys(stage) + row * Shape::kStrideQk;
    T* const to_v = stage_values(stage) + row * Shape::kStrideV;
    const bool vectors = k.vectors && v.vectors;
#pragma unroll
    for (int first = 0; first < kKeys; first += kRowsAtOnce) {
      if (kKeys % kRowsAtOnce != 0 && first + row >= kKeys) break;
      const int32_t position = step.position[first + row];
      if (vectors) {
        copy_vectors<Shape::kWidthQk>(to_k + first * Shape::kStrideQk, k, position, lane);
        copy_vectors<Shape::kWidthV>(to_v + first * Shape::kStrideV, v, position, lane);
      } else {
        copy_elements(to_k + first * Shape::kStrideQk, k, position, Shape::kWidthQk, lane);
        copy_elements(to_v + first * Shape::kStrideV, v, position, Shape::kWidthV, lane);
      }
    }
    constexpr int kWords = sizeof(Step<kKeys>) / sizeof(int4);
    if (threadIdx.x < kWords) {
      reinterpret_cast<int4*>(&shared_.stages[stage])[threadIdx.x] =
          reinterpret_cast<const int4*>(&step)[threadIdx.x];
    }
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
    const Step<kKeys>& step = shared_.stages[stage];
    const uint32_t some = step.some >> warp_, all = step.all >> warp_;
    const Rule rule = step.rule;
    if (!(some & 1)) return;
    float s[kScores][4] = {};
    Products::template scores<Shape::kWidthQk, Shape::kStrideQk>(
        s, memory_ + warp_ * kWarpQueries * Shape::kStrideQk, stage_keys(stage), lane_);
#pragma unroll
    for (int n = 0; n < kScores; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[n][e] = above_infinity(s[n][e] * scale_);
    }
    if (!(all & 1)) {
      if (rule == Rule::own) mask<Rule::own>(s, step);
      if (rule == Rule::lsh) mask<Rule::lsh>(s, step);
      if (rule == Rule::own_not_lsh) mask<Rule::own_not_lsh>(s, step);
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
    float zeros[4] = {};
#pragma unroll
    for (int n = 0; n < kBlocksV; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) zeros[e] = fmaf(out_[n][e], 0.0f, zeros[e]);
    }
    return zeros[0] + zeros[1] + zeros[2] + zeros[3] != 0.0f;
  }

  // Divides by the sums; where these are final, rows of nothing but -infinity become NaN.
  __device__ __forceinline__ void finish(bool final) {
    softmax_.finish();
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float factor = softmax_.empty(row) ? 0.0f : device::reciprocal_approx(softmax_.sum[row]);
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

  // 16-bit outputs are gathered in shared memory first, which no warp needs any more, and leave in whole rows. The whole
  // block calls it.
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
              device::pack_pair<T>(out_[n][2 * row], out_[n][2 * row + 1]);
        }
      }
      __syncthreads();
      for (int r = lane_ / 8; r < kWarpQueries; r += 4) {
        store_row(o, shared_.walk.queries[warp_ * kWarpQueries + r].position,
                  own + r * Shape::kStrideV, lane_ % 8);
      }
    }
  }

 private:
  template <Rule rule>
  __device__ __forceinline__ void mask(float (&s)[kScores][4], const Step<kKeys>& keys) const {
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

}  // namespace hax::sparse_attention
