// LSH and key selection in short sequences: what one warp does for its 16 queries, while keys and values pass by in
// steps of 32. A key that a query both looks up and has selected counts as selected.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_rows.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_walk.cuh"
#include "device/math.cuh"
#include "device/mma.cuh"

namespace hax::sparse_attention {

inline constexpr int kShortKeys = 32;  // of a step
inline constexpr int kShortSteps = 2;  // that are copied together
inline constexpr int kShortWidthV = 128;
inline constexpr int kShortWarpQueries = 16;
inline constexpr int kShortRowLanes = 4;  // threads that copy a row

// When a key counts: a selected one in [position, eviction), one that is looked up from its eviction on.
struct alignas(8) ShortKey {
  int32_t position, eviction;
};

// The kernel for queries and keys of up to kWidthQk columns, a tile for kWarps warps, kBlocks blocks of an SM.
template <class T, int kWidthQk_, int kWarps_, int kStages_, int kBlocks_>
struct ShortShape {
  using Type = T;
  static constexpr int kWidthQk = kWidthQk_, kWarps = kWarps_, kStages = kStages_;
  static constexpr int kBlocks = kBlocks_;
  static constexpr int kThreads = 32 * kWarps, kQueries = kShortWarpQueries * kWarps;
  // Rows lie 16 bytes apart from whole multiples of the banks.
  static constexpr int kStrideQk = kWidthQk + 8, kStrideV = kShortWidthV + 8;
  static constexpr int kRows = kShortSteps * kShortKeys;  // of a stage
};

template <class Shape>
struct alignas(16) ShortStage {
  typename Shape::Type keys[Shape::kRows * Shape::kStrideQk];
  typename Shape::Type values[Shape::kRows * Shape::kStrideV];
  ShortKey marks[Shape::kRows];
};

// The row of a token, whose stride has 32 bits in bytes too.
template <class T>
__device__ __forceinline__ T* short_row(const RowsView<T>& rows, int32_t token) {
  T* row;
  asm("mad.wide.s32 %0, %1, %2, %3;"
      : "=l"(row)
      : "r"(token), "r"(rows.short_stride * static_cast<int32_t>(sizeof(T))), "l"(rows.data));
  return row;
}

template <class Shape>
class ShortWarp {
 public:
  using T = typename Shape::Type;
  using Stage = ShortStage<Shape>;
  static constexpr int kDepths = Shape::kWidthQk / 16, kBlocks = kShortKeys / 8,
                       kBlocksV = kShortWidthV / 8;

  // own: of row lane % 16.
  __device__ __forceinline__ ShortWarp(const Query& own, float scale)
      : bounds_(bounds_of(own)),
        scale_(fabsf(scale) * device::kLog2E),
        slack_(kSlack / scale_),
        negative_(scale < 0.0f) {
    const int row = lane() / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      position_[half] = __shfl_sync(0xffffffffu, own.position, row + 8 * half);
      begin_[half] = __shfl_sync(0xffffffffu, own.begin, row + 8 * half);
      count_[half] = __shfl_sync(0xffffffffu, own.end, row + 8 * half) - begin_[half];
    }
  }

  __device__ const TileBounds& bounds() const { return bounds_; }

  // The fragments of the queries, whose signs make up for a negative scale.
  __device__ __forceinline__ void load_queries(const RowsView<T>& q) {
#pragma unroll
    for (int k = 0; k < kDepths; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int32_t token = position_[i % 2];
        const int column = 16 * k + i / 2 * 8 + lane() % 4 * 2;
        uint32_t word = 0;
        if (token >= 0 && column < q.columns) {
          word = *reinterpret_cast<const uint32_t*>(short_row(q, token) + column);
        }
        query_[k][i] = negative_ ? word ^ 0x80008000u : word;
      }
    }
  }

  // One of a stage's steps. looked_up: keys of key_order from `rank` on; else selected ones.
  __device__ __forceinline__ void take_step(const Stage& stage, int step, bool looked_up,
                                            int32_t rank) {
    const ShortKey* const marks = stage.marks + step * kShortKeys;
    if (looked_up) {
      if (rank >= bounds_.end || rank + kShortKeys <= bounds_.begin) return;
    } else {
      const ShortKey key = marks[lane()];
      if (!__any_sync(0xffffffffu, key.position <= bounds_.last && key.eviction > bounds_.first)) {
        return;
      }
    }
    float s[kBlocks][4] = {};
    add_scores(s, stage.keys + step * kShortKeys * Shape::kStrideQk);
    if (looked_up) {
      mask(s, marks, [&](int half, int column, const ShortKey& key) {
        const auto place = static_cast<uint32_t>(rank - begin_[half] + column);
        return place < static_cast<uint32_t>(count_[half]) && key.eviction <= position_[half];
      });
    } else {
      mask(s, marks, [&](int half, int, const ShortKey& key) {
        return key.position <= position_[half] && position_[half] < key.eviction;
      });
    }
    weigh(s);
    add_outputs(s, stage.values + step * kShortKeys * Shape::kStrideV);
  }

  // Divides by the sums and packs, and answers which of the 16 rows have to be done by exact_row(): those that met a
  // number that isn't finite, and those without any key.
  __device__ __forceinline__ uint32_t finish(uint32_t (&words)[kBlocksV][2]) {
    uint32_t bad = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum_[half] += __shfl_xor_sync(0xffffffffu, sum_[half], 1);
      sum_[half] += __shfl_xor_sync(0xffffffffu, sum_[half], 2);
      const float factor = device::reciprocal_approx(sum_[half]);
      float zero = 0.0f;
#pragma unroll
      for (int n = 0; n < kBlocksV; ++n) {
        const float left = out_[n][2 * half] * factor, right = out_[n][2 * half + 1] * factor;
        zero = fmaf(left * right, 0.0f, zero);
        words[n][half] = device::pack_pair<T>(left, right);
      }
      const uint32_t votes = __ballot_sync(
          0xffffffffu, position_[half] >= 0 && (maximum_[half] == -INFINITY || zero != 0.0f));
      if (votes == 0) continue;
#pragma unroll
      for (int row = 0; row < 8; ++row) {
        if (votes >> 4 * row & 15) bad |= 1u << (row + 8 * half);
      }
    }
    return bad;
  }

  // Through `rows`, 16 of kStrideV elements that no other warp uses. Rows of `bad` are left out.
  __device__ __forceinline__ void store(const uint32_t (&words)[kBlocksV][2], const RowsView<T>& o,
                                        float* lse, int64_t lse_stride, T* rows, const Query& own,
                                        uint32_t bad) const {
    if (lse && lane() % 4 == 0) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (position_[half] < 0 || (bad >> (lane() / 4 + 8 * half) & 1)) continue;
        lse[position_[half] * lse_stride] =
            fmaf(maximum_[half], scale_, __log2f(sum_[half])) * device::kLn2;
      }
    }
    const uint32_t to =
        device::shared_address(rows + lane() % 16 * Shape::kStrideV + lane() / 16 * 8);
#pragma unroll
    for (int n = 0; n < kBlocksV; n += 2) {
      device::store_matrix_x4(to + n * 8 * sizeof(T),
                              {words[n][0], words[n][1], words[n + 1][0], words[n + 1][1]});
    }
    __syncwarp();
    const int column = lane() % 16 * 8;
    const int32_t token = bad >> lane() % 16 & 1 ? -1 : own.position;
#pragma unroll
    for (int i = 0; i < kShortWarpQueries / 2; ++i) {
      const int row = 2 * i + lane() / 16;
      const int32_t at = __shfl_sync(0xffffffffu, token, row);
      if (at < 0 || column >= o.columns) continue;
      *reinterpret_cast<uint4*>(short_row(o, at) + column) =
          *reinterpret_cast<const uint4*>(rows + row * Shape::kStrideV + column);
    }
  }

 private:
  static constexpr float kSlack = 8.0f;  // of the maximum, see RunningSoftmax

  static __device__ int lane() { return static_cast<int>(threadIdx.x % 32); }

  __device__ __forceinline__ void add_scores(float (&s)[kBlocks][4], const T* keys) const {
    const uint32_t from =
        device::shared_address(keys + lane() % 8 * Shape::kStrideQk + lane() / 8 * 8);
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
      for (int k = 0; k < kDepths; k += 2) {
        uint32_t b[4];
        device::load_matrix_x4(b, from + (n * 8 * Shape::kStrideQk + k * 16) * sizeof(T));
        device::mma_16x8x16<T>(s[n], query_[k], {b[0], b[1]});
        device::mma_16x8x16<T>(s[n], query_[k + 1], {b[2], b[3]});
      }
    }
  }

  template <class Selects>
  __device__ __forceinline__ void mask(float (&s)[kBlocks][4], const ShortKey* marks,
                                       Selects&& selects) const {
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      const int column = n * 8 + lane() % 4 * 2;
      const int4 two = *reinterpret_cast<const int4*>(marks + column);
      const ShortKey keys[2] = {{two.x, two.y}, {two.z, two.w}};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (!selects(e / 2, column + e % 2, keys[e % 2])) s[n][e] = -INFINITY;
      }
    }
  }

  // Scores become probabilities relative to the rows' maxima.
  __device__ __forceinline__ void weigh(float (&s)[kBlocks][4]) {
    float high[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) high[e / 2] = fmaxf(high[e / 2], s[n][e]);
    }
    const bool enough = high[0] <= maximum_[0] + slack_ && high[1] <= maximum_[1] + slack_;
    if (!__all_sync(0xffffffffu, enough)) raise(high);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float base = maximum_[half] == -INFINITY ? 0.0f : maximum_[half] * scale_;
      float total = 0.0f;
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[n][e] = device::exp2_approx(fmaf(s[n][e], scale_, -base));
          total += s[n][e];
        }
      }
      sum_[half] += total;
    }
  }

  // A row's maximum moves for its own scores alone, whatever other rows do.
  __device__ __forceinline__ void raise(float (&high)[2]) {
    float correction[2] = {1.0f, 1.0f};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      high[half] = fmaxf(high[half], __shfl_xor_sync(0xffffffffu, high[half], 1));
      high[half] = fmaxf(high[half], __shfl_xor_sync(0xffffffffu, high[half], 2));
      if (!(high[half] <= maximum_[half] + slack_)) {
        if (maximum_[half] != -INFINITY) {
          correction[half] = device::exp2_approx((maximum_[half] - high[half]) * scale_);
        }
        maximum_[half] = high[half];
      }
      sum_[half] *= correction[half];
    }
    if (!__any_sync(0xffffffffu, correction[0] != 1.0f || correction[1] != 1.0f)) return;
#pragma unroll
    for (int n = 0; n < kBlocksV; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out_[n][e] *= correction[e / 2];
    }
  }

  __device__ __forceinline__ void add_outputs(const float (&s)[kBlocks][4], const T* values) {
    const uint32_t from =
        device::shared_address(values + lane() % 16 * Shape::kStrideV + lane() / 16 * 8);
#pragma unroll
    for (int k = 0; k < kBlocks / 2; ++k) {
      const float(&left)[4] = s[2 * k], (&right)[4] = s[2 * k + 1];
      const uint32_t a[4] = {
          device::pack_pair<T>(left[0], left[1]), device::pack_pair<T>(left[2], left[3]),
          device::pack_pair<T>(right[0], right[1]), device::pack_pair<T>(right[2], right[3])};
#pragma unroll
      for (int n = 0; n < kBlocksV; n += 2) {
        uint32_t b[4];
        device::load_matrix_x4_transposed(b, from + (k * 16 * Shape::kStrideV + n * 8) * sizeof(T));
        device::mma_16x8x16<T>(out_[n], a, {b[0], b[1]});
        device::mma_16x8x16<T>(out_[n + 1], a, {b[2], b[3]});
      }
    }
  }

  const TileBounds bounds_;
  const float scale_, slack_;  // of scores, in powers of 2; kSlack before scaling
  const bool negative_;
  int32_t position_[2], begin_[2], count_[2];  // of rows lane / 4 and lane / 4 + 8
  uint32_t query_[kDepths][4];
  float maximum_[2] = {-INFINITY, -INFINITY},
        sum_[2] = {};  // of scores before scaling; this lane's share
  float out_[kBlocksV][4] = {};
};

}  // namespace hax::sparse_attention
