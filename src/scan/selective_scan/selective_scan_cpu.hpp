// What the selective scan's CPU kernels share: a block of channels, one channel a lane, with its state and
// a tile of tokens in fp32.
#pragma once

#include "core/parallel.hpp"
#include "scan/scan_simd.hpp"
#include "scan/selective_scan/selective_scan.hpp"

namespace hax::selective_scan {
inline namespace HAX_CPU_LEVEL_NAME {

using simd::kLanes;
using simd::Vec;

inline constexpr int kStatesAtOnce = 4;  // states n whose recurrences share registers

// Calls f(n, integral_constant) for runs of at most kStatesAtOnce states from n on that cover [0, states).
template <class F>
HAX_INLINE void for_each_run(int64_t states, F&& f) {
  for (int64_t n = 0; n < states; n += kStatesAtOnce) {
    dispatch_value<4, 3, 2, 1>(smaller(kStatesAtOnce, states - n), [&](auto run) { f(n, run); });
  }
}

class ChannelScan {
 public:
  ChannelScan(const Inputs& in, const ScanBlocks& blocks, int64_t block, Workspace& scratch)
      : in_(in),
        block_(blocks.at(block)),
        width_(padded_width(blocks)),
        used_(round_up(block_.count, kLanes)),
        buf_(in.states, width_, scratch) {
    constexpr float kLog2E = 1.44269504f;
    load(buf_.rate, in.A, in.A.offset(block_.first));
    for (int64_t i = 0; i < in.states * width_; ++i) buf_.rate[i] *= kLog2E;
    load_channel_row(buf_.bias, in.delta_bias);
    load_channel_row(buf_.skip, in.D);
  }

  // A (..., D, N) tensor's part that belongs to the block, as (N, width); `offset` is where the block's
  // first channel lies.
  void load(float* to, const Tensor& from, int64_t offset) const {
    simd::load_transposed(to, width_, from, offset, from.stride[from.ndim - 2], block_.count, in_.states);
  }

  void load_or_zero(float* to, const Tensor& states, int64_t offset) const {
    if (!states) return simd::zero_row(to, in_.states * width_);
    load(to, states, offset + block_.first * states.stride[states.ndim - 2]);
  }

  void store(const Tensor& states, int64_t offset, const float* from) const {
    const int64_t stride = states.stride[states.ndim - 2];
    simd::store_transposed(states, offset + block_.first * stride, stride, from, width_, block_.count,
                           in_.states);
  }

 protected:
  void load_channel_row(float* to, const Tensor& from) const {
    simd::zero_row(to, width_);
    if (from) simd::load_row(to, from, from.offset(block_.first), block_.count);
  }

  // The block's channels of a token of a (B, L, D) tensor.
  void load_token(float* to, const Tensor& from, int64_t row, int64_t token) const {
    simd::load_padded_row(to, width_, from, from.offset(row, token, block_.first), block_.count);
  }
  void store_token(const Tensor& to, int64_t row, int64_t token, const float* from) const {
    simd::store_row(to, to.offset(row, token, block_.first), from, block_.count);
  }

  // Reads u, delta and B of a tile. slope: receives d dt / d delta unless it is null.
  void load_tile(int64_t row, int64_t token, int64_t count, float* slope) {
    for (int64_t t = 0; t < count; ++t) {
      const int64_t at = t * width_;
      load_token(buf_.u + at, in_.u, row, token + t);
      load_token(buf_.dt + at, in_.delta, row, token + t);
      for (int64_t lane = 0; lane < used_; lane += kLanes) {
        const Vec biased = simd::load(buf_.dt + at + lane) + simd::load(buf_.bias + lane);
        const simd::StepSize step = simd::step_size(biased, in_.softplus);
        simd::store(buf_.dt + at + lane, step.dt);
        simd::store(buf_.dtu + at + lane, step.dt * simd::load(buf_.u + at + lane));
        if (slope) simd::store(slope + at + lane, step.slope);
      }
      simd::load_row(buf_.B + t * in_.states, in_.B, in_.B.offset(row, token + t, block_.group),
                     in_.states);
    }
  }

  void load_C(int64_t row, int64_t token, int64_t count) {
    for (int64_t t = 0; t < count; ++t) {
      simd::load_row(buf_.C + t * in_.states, in_.C, in_.C.offset(row, token + t, block_.group),
                     in_.states);
    }
  }

  // Takes the state over the loaded tile; with kOutput also y = sum over n of C h.
  template <bool kOutput>
  void advance(int64_t count) {
    for (int64_t lane = 0; lane < used_; lane += kLanes) {
      for_each_run(in_.states, [&](int64_t n, auto run) { advance_run<kOutput, run.value>(lane, n, count); });
    }
  }

  const Inputs& in_;
  ScanBlock block_;
  int64_t width_;  // of the buffers' rows
  int64_t used_;   // lanes of a row that hold channels, whole vectors
  Buffers buf_;

 private:
  template <bool kOutput, int kRun>
  HAX_INLINE void advance_run(int64_t lane, int64_t n, int64_t count) {
    float* const state = buf_.state + n * width_ + lane;
    const float* const rate = buf_.rate + n * width_ + lane;
    Vec h[kRun], a[kRun];
    for (int i = 0; i < kRun; ++i) h[i] = simd::load(state + i * width_);
    for (int i = 0; i < kRun; ++i) a[i] = simd::load(rate + i * width_);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t at = t * width_ + lane;
      const Vec dt = simd::load(buf_.dt + at);
      const Vec dtu = simd::load(buf_.dtu + at);
      const float* const B = buf_.B + t * in_.states + n;
      for (int i = 0; i < kRun; ++i) h[i] = dtu * B[i] + (h[i] * simd::exp2m1(dt * a[i]) + h[i]);
      if constexpr (kOutput) {
        const float* const C = buf_.C + t * in_.states + n;
        Vec y = n == 0 ? Vec{} : simd::load(buf_.y + at);
        for (int i = 0; i < kRun; ++i) y += h[i] * C[i];
        simd::store(buf_.y + at, y);
      }
    }
    for (int i = 0; i < kRun; ++i) simd::store(state + i * width_, h[i]);
  }
};

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax::selective_scan
