// Gradients pair by pair, for tiles whose sums aren't finite: 0 times NaN is NaN, so such a row reaches all sums of a
// tile; here it reaches those alone that it is paired with, column by column.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_rows.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_spans.cuh"
#include "device/warp.cuh"

namespace hax::sparse_attention {

// Adds up the pairs of one query or key in a warp, whose lanes have every 32nd column.
template <class T, int kQk, int kV>
class ExactSums {
 public:
  __device__ ExactSums(const BackwardParams& p, const Sequences::Range& range,
                       const PatternView& view, PairRule rule)
      : p_(p), range_(range), view_(view), rule_(rule), lane_(static_cast<int>(threadIdx.x % 32)) {}

  // Query i of head h and key j of `head`, if they are a pair.
  __device__ void add_to_key(int32_t i, int64_t h, int32_t j, int64_t head) {
    Pair pair;
    if (!counts(i, h, j) || !read(pair, i, h, j, head)) return;
#pragma unroll
    for (int n = 0; n < kQkParts; ++n) first_[n] += pair.slope * pair.q[n];
#pragma unroll
    for (int n = 0; n < kVParts; ++n) second_[n] += pair.weight * pair.d_o[n];
  }
  __device__ void add_to_query(int32_t i, int64_t h, int32_t j, int64_t head) {
    Pair pair;
    if (!counts(i, h, j) || !read(pair, i, h, j, head)) return;
#pragma unroll
    for (int n = 0; n < kQkParts; ++n) first_[n] += pair.slope * pair.k[n];
  }

  // With the rows that its span has in the workspace.
  __device__ void write_key(int32_t j, int64_t head, const CudaBackwardPlan& plan,
                            const KeyRows& rows, bool add) {
#pragma unroll
    for (int n = 0; n < kQkParts; ++n) first_[n] *= p_.scale;
    for (int r = 0; r < rows.count; ++r) {
      add_row(first_, rows.first + r * plan.row_width, p_.d_qk);
      add_row(second_, rows.first + r * plan.row_width + plan.v_column, p_.d_v);
    }
    write(p_.dk, j, head, first_, add);
    write(p_.dv, j, head, second_, add);
  }
  // To a row of the workspace; add: to what it holds.
  __device__ void write_row(float* row, const CudaBackwardPlan& plan, bool add) const {
    for (int c = lane_; c < p_.d_qk; c += 32) {
      row[c] = at(first_, c) * p_.scale + (add ? row[c] : 0.0f);
    }
    row += plan.v_column;
    for (int c = lane_; c < p_.d_v; c += 32) row[c] = at(second_, c) + (add ? row[c] : 0.0f);
  }
  __device__ void write_query(int32_t i, int64_t h, bool add) {
#pragma unroll
    for (int n = 0; n < kQkParts; ++n) first_[n] *= p_.scale;
    write(p_.dq, i, h, first_, add);
  }

 private:
  static constexpr int kQkParts = kQk / 32, kVParts = kV / 32;
  struct Pair {
    float q[kQkParts], k[kQkParts], d_o[kVParts];
    float weight, slope;
  };

  __device__ bool counts(int32_t i, int64_t h, int32_t j) const {
    const Query query = read_query(p_.pattern, range_, i, h);
    const Key key = read_key(view_, j);
    switch (rule_) {
      case PairRule::own: return selects<Rule::own>(query, key);
      case PairRule::lsh: return selects<Rule::lsh>(query, key);
      case PairRule::own_not_lsh: return selects<Rule::own_not_lsh>(query, key);
      default: return selects<Rule::own>(query, key) || selects<Rule::lsh>(query, key);
    }
  }

  __device__ bool read(Pair& pair, int32_t i, int64_t h, int32_t j, int64_t head) const {
    float v[kVParts], o[kVParts];
    load(pair.q, p_.q, i, h);
    load(pair.k, p_.k, j, head);
    load(v, p_.v, j, head);
    load(o, p_.o, i, h);
    load(pair.d_o, p_.d_o, i, h);
    const float lse = *p_.lse.at<const float>(range_.row, h, range_.begin + i);
    if (lse == -INFINITY) return false;
    float delta = dot(o, pair.d_o);
    if (p_.dlse) delta -= *p_.dlse.at<const float>(range_.row, h, range_.begin + i);
    pair.weight = expf(dot(pair.q, pair.k) * p_.scale - lse);
    pair.slope = pair.weight * (dot(pair.d_o, v) - delta);
    return true;
  }

  template <int kParts>
  __device__ void load(float (&to)[kParts], const Tensor& tensor, int32_t token, int64_t h) const {
    const T* const row = tensor.at<const T>(range_.row, range_.begin + token, h);
#pragma unroll
    for (int n = 0; n < kParts; ++n) {
      const int c = n * 32 + lane_;
      to[n] = c < tensor.shape[3] ? device::to_float(row[c * tensor.stride[3]]) : 0.0f;
    }
  }
  template <int kParts>
  __device__ static float dot(const float (&a)[kParts], const float (&b)[kParts]) {
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < kParts; ++n) sum += a[n] * b[n];
    return device::warp_sum<32>(sum);
  }
  template <int kParts>
  __device__ void add_row(float (&sums)[kParts], const float* row, int64_t width) const {
#pragma unroll
    for (int n = 0; n < kParts; ++n) {
      if (n * 32 + lane_ < width) sums[n] += row[n * 32 + lane_];
    }
  }
  template <int kParts>
  __device__ static float at(const float (&sums)[kParts], int column) {
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < kParts; ++n) sum = n == column / 32 ? sums[n] : sum;
    return sum;
  }
  template <int kParts>
  __device__ void write(const Tensor& to, int32_t token, int64_t h, const float (&sums)[kParts],
                        bool add) const {
    if (!to) return;
    T* const row = to.at<T>(range_.row, range_.begin + token, h);
#pragma unroll
    for (int n = 0; n < kParts; ++n) {
      const int c = n * 32 + lane_;
      if (c >= to.shape[3]) continue;
      T& at = row[c * to.stride[3]];
      at = device::from_float<T>(add ? sums[n] + device::to_float(at) : sums[n]);
    }
  }

  const BackwardParams& p_;
  const Sequences::Range& range_;
  const PatternView& view_;
  const PairRule rule_;
  const int lane_;
  float first_[kQkParts] = {};  // dq or dk, in units of 1 / scale
  float second_[kVParts] = {};  // dv
};

}  // namespace hax::sparse_attention
