// A chunk of a unit by one warp: its dx, ddt, shares of dA, dD and ddt_bias, and dscores for its block.
#pragma once

#include "scan/ssd/ssd_kernel_backward_heads_memory.cuh"

namespace hax::ssd {

template <class S>
class UnitGradients {
  using T = typename S::T;
  using Shared = HeadsShared<S>;
  using Head = typename Shared::Head;
  using Left = device::LeftFragment<T>;
  using Right = device::RightFragment<T>;
  using Blocks = HeadBlocks<S>;
  static constexpr int Q = S::kTokens, kSteps = S::kStates / 16;
  static_assert(S::kWidth == 16 && Q == 2 * device::kWarp);

 public:
  __device__ UnitGradients(Shared& shared, const BackwardParams& p, const CudaBackwardPlan& plan,
                           const BackwardAccess& access, const ChunkAt& chunk, int64_t unit,
                           int64_t group, int warp)
      : shared_(shared),
        head_(shared.heads[warp]),
        p_(p),
        plan_(plan),
        access_(access),
        chunk_(chunk),
        unit_(p, plan.slices, S::kWidth, unit),
        dx_(p.dx ? p.dx.at<T>(chunk.sequence.row, chunk.token() + lane_ / 4, unit_.head) : nullptr),
        dx_band_(16 * p.dx.stride[1]),
        whole_rows_(unit_.width == S::kWidth && access.dx) {}

  __device__ void fetch() {
    const Team<device::kWarp> team{lane_};
    const int64_t row = chunk_.sequence.row;
    fetch_unit_tokens<S>(team, head_.x, p_.x, access_.x, row, chunk_.token(), chunk_.tokens, unit_);
    fetch_unit_tokens<S>(team, head_.g, plan_.g, access_.g, row, chunk_.token(), chunk_.tokens,
                         unit_);
    const int64_t units = plan_.units(p_.heads), at = chunk_.place * units + unit_.index;
    const T* const states = static_cast<const T*>(plan_.states);
    fetch_compact<S::kWidth, S::kStates, S::kStateRow>(team, head_.h, states + at * S::kStateSize);
    fetch_compact<S::kWidth, S::kStates, S::kStateRow>(
        team, head_.dh, states + (plan_.chunks.count * units + at) * S::kStateSize);
    const int64_t steps = chunk_.place * p_.heads + unit_.head;
    fetch_bytes(team, head_.dt, plan_.steps + steps * 2 * Q, 2 * Q * sizeof(float));
    if (p_.D) {
#pragma unroll
      for (int k = 0; k < 4; ++k) D_[k / 2][k % 2] = skip_of(k / 2 * 8 + lane_ % 4 * 2 + k % 2);
    }
    const float bias = p_.dt_bias ? *p_.dt_bias.at<float>(unit_.head) : 0.0f;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int t = 2 * lane_ + k;
      raw_[k] = 0.0f;
      if (t >= chunk_.tokens) continue;
      const int64_t offset = p_.dt.offset(row, chunk_.token() + t, unit_.head);
      raw_[k] = device::load_any(p_.dt, offset) + bias;
    }
  }

  __device__ void run() {
    weigh();
    through_states();
    float rows[Blocks::kBands][4] = {}, skip[4] = {};
    const auto band = [&]<int i>(std::integral_constant<int, i>) { band_of<i>(rows, skip); };
    [&]<int... i>(std::integer_sequence<int, i...>) {
      (band(std::integral_constant<int, i>{}), ...);
    }
    (std::make_integer_sequence<int, Blocks::kBands>{});
    __syncwarp();
    put_rows(rows);
    if (p_.dD) store_skip_gradient(skip);
    __syncwarp();
    finish();
  }

 private:
  static __device__ float2 unpack(uint32_t word) { return device::unpack_pair<T>(word); }

  __device__ void weigh() {
    const float end = head_.exponent[Q - 1];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int t = 2 * lane_ + k;
      const float exponent = head_.exponent[t];
      head_.to_end[t] = device::from_float<T>(device::exp2_approx(end - exponent) * head_.dt[t]);
      head_.from_start[t] = device::from_float<T>(device::exp2_approx(exponent));
    }
  }

  // y . g through h by tokens, and h . dh.
  __device__ void through_states() {
    Right h[kSteps][2];
    float dot = 0.0f;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      Right dh[2];
      device::load_right<true>(h[k], head_.h, S::kStateRow, 16 * k, 0, lane_);
      device::load_right<true>(dh, head_.dh, S::kStateRow, 16 * k, 0, lane_);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float2 a = unpack(h[k][n / 2].pairs[n % 2]), b = unpack(dh[n / 2].pairs[n % 2]);
        dot += a.x * b.x;
        dot += a.y * b.y;
      }
    }
    through_ = device::warp_sum(dot) * device::exp2_approx(head_.exponent[Q - 1]);
#pragma unroll
    for (int j = 0; j < Blocks::kBands; ++j) {
      float y[2][4] = {}, dots[2] = {};
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        Left C;
        device::load_left<false>(C, shared_.C, S::kStateRow, 16 * j, 16 * k, lane_);
        device::multiply_add<T>(y[0], C, h[k][0]);
        device::multiply_add<T>(y[1], C, h[k][1]);
      }
      Left g;
      device::load_left<false>(g, head_.g, S::kWidthRow, 16 * j, 0, lane_);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float2 pair = unpack(g.pairs[k]);
        const float* const at = &y[k / 2][k % 2 * 2];
        dots[k % 2] += at[0] * pair.x;
        dots[k % 2] += at[1] * pair.y;
      }
      const float sum = device::warp_sums<4>(dots, lane_);
      const int t = 16 * j + lane_ / 4 + lane_ % 2 * 8;
      if (lane_ % 4 < 2) head_.later[t] = sum * device::exp2_approx(head_.exponent[t]);
    }
  }

  // Earlier tokens s of band i: dx, and their pairs with all later tokens.
  template <int i>
  __device__ void band_of(float (&rows)[Blocks::kBands][4], float (&skip)[4]) {
    const int r = lane_ / 4, c = lane_ % 4 * 2, s = 16 * i + r;
    Left x, B[kSteps], own_g;
    device::load_left<false>(x, head_.x, S::kWidthRow, 16 * i, 0, lane_);
    device::load_left<false>(own_g, head_.g, S::kWidthRow, 16 * i, 0, lane_);
    float dx[2][4] = {};
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      device::load_left<false>(B[k], shared_.B, S::kStateRow, 16 * i, 16 * k, lane_);
      Right dh[2];
      device::load_right<true>(dh, head_.dh, S::kStateRow, 16 * k, 0, lane_);
      device::multiply_add<T>(dx[0], B[k], dh[0]);
      device::multiply_add<T>(dx[1], B[k], dh[1]);
    }
    const float from[2] = {head_.exponent[s], head_.exponent[s + 8]};
    const float dt[2] = {head_.dt[s], head_.dt[s + 8]};
    const float end = head_.exponent[Q - 1];
    const float to_end[2] = {device::exp2_approx(end - from[0]),
                             device::exp2_approx(end - from[1])};
    float sums[4] = {};  // with later tokens, with dh, each for rows r and r + 8
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float* const at = &dx[k / 2][k % 2 * 2];
      const float2 pair = unpack(x.pairs[k]);
      at[0] *= to_end[k % 2];
      at[1] *= to_end[k % 2];
      sums[2 + k % 2] += at[0] * pair.x;
      sums[2 + k % 2] += at[1] * pair.y;
    }
#pragma unroll
    for (int j = i; j < Blocks::kBands; ++j) {
      Right g[2];
      device::load_right<true>(g, head_.g, S::kWidthRow, 0, 16 * j, lane_);
      float dmix[2][4] = {}, scores[2][4] = {};
      device::multiply_add<T>(dmix[0], x, g[0]);
      device::multiply_add<T>(dmix[1], x, g[1]);
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        Right C[2];
        device::load_right<true>(C, shared_.C, S::kStateRow, 16 * k, 16 * j, lane_);
        device::multiply_add<T>(scores[0], B[k], C[0]);
        device::multiply_add<T>(scores[1], B[k], C[1]);
      }
      Left mix;
      uint32_t dscores[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {  // as left operands lie
        const int n = k / 2, half = k % 2, t = 16 * j + 8 * n + c;
        const float2 to = *reinterpret_cast<const float2*>(head_.exponent + t);
        float mixed[2], gradient[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int over = 8 * n + c + e - r - 8 * half;  // t - s on the diagonal
          float decay = device::exp2_approx((e ? to.y : to.x) - from[half]);
          if (i == j && over < 0) decay = 0.0f;
          const float dm = dmix[n][2 * half + e];
          mixed[e] = scores[n][2 * half + e] * decay;
          gradient[e] = dm * decay;
          float share = dm * mixed[e];
          if (i == j && over == 0) {
            head_.own[t + e] = share;
            share = 0.0f;
          }
          sums[half] += share;
          rows[j][2 * n + e] += share * dt[half];
        }
        mix.pairs[k] = device::pack_pair<T>(mixed[0], mixed[1]);
        dscores[k] = device::pack_pair<T>(gradient[0] * dt[half], gradient[1] * dt[half]);
      }
      head_.dscores[Blocks::index(i, j)][lane_] = {dscores[0], dscores[1], dscores[2], dscores[3]};
      Right tokens[2];
      device::load_right<false>(tokens, head_.g, S::kWidthRow, 16 * j, 0, lane_);
      device::multiply_add<T>(dx[0], mix, tokens[0]);
      device::multiply_add<T>(dx[1], mix, tokens[1]);
    }
    const float sum = device::warp_sums<4>(sums, lane_);
    head_.earlier[lane_ % 4 / 2][s + lane_ % 2 * 8] = sum;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float* const at = &dx[k / 2][k % 2 * 2];
      const float2 u = unpack(x.pairs[k]), g = unpack(own_g.pairs[k]);
      at[0] = at[0] * dt[k % 2] + D_[k / 2][0] * g.x;
      at[1] = at[1] * dt[k % 2] + D_[k / 2][1] * g.y;
      skip[k / 2 * 2] += u.x * g.x;
      skip[k / 2 * 2 + 1] += u.y * g.y;
    }
    if (!p_.dx) return;
    T* const to = dx_ + i * dx_band_;
    if (whole_rows_ && 16 * (i + 1) <= chunk_.tokens) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        device::store_packed<T, 2>(to + k % 2 * (dx_band_ / 2) + k / 2 * 8 + c,
                                   reinterpret_cast<const float(&)[2]>(dx[k / 2][k % 2 * 2]));
      }
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float* const at = &dx[k / 2][k % 2 * 2];
        store_dx(to + k % 2 * (dx_band_ / 2), s + k % 2 * 8, k / 2 * 8 + c, at[0], at[1]);
      }
    }
  }

  __device__ float skip_of(int p) const {
    if (p_.D.ndim == 1) return *p_.D.at<float>(unit_.head);
    return p < unit_.width ? *p_.D.at<float>(unit_.head, p) : 0.0f;
  }

  // to: token s of dx
  __device__ void store_dx(T* to, int s, int p, float first, float second) {
    if (s >= chunk_.tokens || p >= unit_.width) return;
    to[p * p_.dx.stride[3]] = device::from_float<T>(first);
    if (p + 1 < unit_.width) to[(p + 1) * p_.dx.stride[3]] = device::from_float<T>(second);
  }

  // Adds the sums of pairs by later tokens.
  __device__ void put_rows(float (&rows)[Blocks::kBands][4]);

  __device__ void store_skip_gradient(float (&skip)[4]);

  // ddt, and the unit's shares of dA and ddt_bias.
  __device__ void finish();

  Shared& shared_;
  Head& head_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const BackwardAccess& access_;
  const ChunkAt& chunk_;
  const Unit unit_;
  const int lane_ = threadIdx.x % device::kWarp;
  T* const dx_;  // the first token that the lane has
  const int64_t dx_band_;
  const bool whole_rows_;  // whether dx can be stored in pairs, without asking for columns
  float D_[2][2] = {};     // of the lane's columns
  float raw_[2];           // dt with its bias, of tokens 2 lane and 2 lane + 1
  float through_;          // h . dh, faded over the chunk
};

}  // namespace hax::ssd
