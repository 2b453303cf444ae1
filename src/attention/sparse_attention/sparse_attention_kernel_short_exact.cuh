// One query of a short sequence by one warp, key after key as IEEE arithmetic takes them: for rows that met numbers
// that aren't finite, where products of whole tiles carry these into rows that don't select them.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_rows.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_softmax.cuh"
#include "device/warp.cuh"

namespace hax::sparse_attention {

// Rows of up to 64 columns of q and k, 128 of v. A lane keeps every 32nd column.
template <class T>
class ShortExact {
 public:
  __device__ ShortExact(const RowsView<T>& q, const RowsView<T>& k, const RowsView<T>& v,
                        int32_t position, float scale)
      : k_(k), v_(v), scale_(scale * device::kLog2E) {
    read(query_, q, position);
  }

  __device__ void take(int32_t key) {
    float columns[kColumnsQk], values[kColumnsV];
    read(columns, k_, key);
    read(values, v_, key);
    float score = 0.0f;
#pragma unroll
    for (int i = 0; i < kColumnsQk; ++i) score = fmaf(query_[i], columns[i], score);
    score = above_infinity(device::warp_sum(score) * scale_);
    const float high = fmaxf(maximum_, score);
    const float correction = maximum_ == -INFINITY ? 0.0f : exp2f(maximum_ - high);
    const float weight = exp2f(score - high);
    maximum_ = high;
    sum_ = sum_ * correction + weight;
#pragma unroll
    for (int i = 0; i < kColumnsV; ++i) {
      out_[i] *= correction;
      if (weight != 0.0f) out_[i] = fmaf(weight, values[i], out_[i]);
    }
  }

  __device__ void store(const RowsView<T>& o, float* lse, int64_t lse_stride,
                        int32_t position) const {
    const bool empty = maximum_ == -INFINITY && sum_ == 0.0f, undefined = maximum_ == -FLT_MAX;
    const float factor = empty ? 0.0f : undefined ? NAN : 1.0f / sum_;
    T* const to = o.data + int64_t{position} * o.short_stride;
#pragma unroll
    for (int i = 0; i < kColumnsV; ++i) {
      if (lane() + 32 * i < o.columns) {
        to[lane() + 32 * i] = device::from_float<T>(out_[i] * factor);
      }
    }
    if (!lse || lane() != 0) return;
    lse[position * lse_stride] =
        empty || undefined ? -INFINITY : (maximum_ + log2f(sum_)) * device::kLn2;
  }

 private:
  static constexpr int kColumnsQk = 2, kColumnsV = 4;

  static __device__ int lane() { return static_cast<int>(threadIdx.x % 32); }

  template <int N>
  static __device__ void read(float (&to)[N], const RowsView<T>& rows, int32_t token) {
    const T* const from = rows.data + int64_t{token} * rows.short_stride;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int column = lane() + 32 * i;
      to[i] = column < rows.columns ? device::to_float(from[column]) : 0.0f;
    }
  }

  const RowsView<T>&k_, &v_;
  const float scale_;
  float query_[kColumnsQk], out_[kColumnsV] = {}, maximum_ = -INFINITY, sum_ = 0.0f;
};

// All that a query looks up and has selected. `selected`: all that is ever selected.
template <class T>
__device__ __noinline__ void exact_row(const ForwardParams& p, const Sequences::Range& range,
                                       const PatternView& view, const FewSelected& selected,
                                       int64_t q_head, int64_t k_head, const Query& query) {
  const RowsView<T> q(p.q, range, q_head, true), k(p.k, range, k_head, true),
      v(p.v, range, k_head, true);
  ShortExact<T> row(q, k, v, query.position, p.scale);
  const auto take_all = [&](int32_t begin, int32_t end, auto&& find) {
    for (int32_t first = begin; first < end; first += 32) {
      const int32_t at = first + static_cast<int32_t>(threadIdx.x % 32);
      int32_t key = 0;
      uint32_t votes = __ballot_sync(0xffffffffu, at < end && find(at, key));
      for (; votes != 0; votes &= votes - 1) {
        row.take(__shfl_sync(0xffffffffu, key, __ffs(static_cast<int>(votes)) - 1));
      }
    }
  };
  take_all(query.begin, query.end, [&](int32_t at, int32_t& key) {
    key = view.ordered(at);
    return key <= query.position && key + view.life(key) <= query.position;
  });
  take_all(0, selected.length, [&](int32_t at, int32_t& key) {
    key = selected.keys[at].key;
    return key <= query.position && query.position < selected.keys[at].eviction;
  });
  row.store(RowsView<T>(p.o, range, q_head, true),
            p.lse ? p.lse.at<float>(range.row, q_head, range.begin) : nullptr, p.lse.stride[2],
            query.position);
}

}  // namespace hax::sparse_attention
