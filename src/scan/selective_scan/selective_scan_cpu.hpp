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
    simd::load_transposed(to, width_, from, offset, from.stride[from.ndim - 2], block_.count,
                          in_.states);
  }

  void load_or_zero(float* to, const Tensor& states, int64_t offset) const {
    if (!states) return simd::zero_row(to, in_.states * width_);
    load(to, states, offset + block_.first * states.stride[states.ndim - 2]);
  }

  void store(const Tensor& states, int64_t offset, const float* from) const {
    const int64_t stride = states.stride[states.ndim - 2];
    simd::store_transposed(states, offset + block_.first * stride, stride, from, width_,
                           block_.count, in_.states);
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

  // Where a tile holds token t of the vector of channels from `lane` on.
  HAX_INLINE static int64_t at(int64_t lane, int64_t t) { return lane * kScanTile + t * kLanes; }

  // Reads u, delta and B of a tile. slope: receives d dt / d delta unless it is null.
  void load_tile(int64_t row, int64_t token, int64_t count, float* slope) {
    for (int64_t t = 0; t < count; ++t) {
      load_token(buf_.row, in_.u, row, token + t);
      load_token(buf_.other_row, in_.delta, row, token + t);
      for (int64_t lane = 0; lane < used_; lane += kLanes) {
        const Vec u = simd::load(buf_.row + lane);
        const Vec biased = simd::load(buf_.other_row + lane) + simd::load(buf_.bias + lane);
        const Vec dt = in_.softplus ? simd::softplus(biased) : biased;
        simd::store(buf_.u + at(lane, t), u);
        simd::store(buf_.dt + at(lane, t), dt);
        simd::store(buf_.dtu + at(lane, t), dt * u);
        if (!slope) continue;
        simd::store(slope + at(lane, t), in_.softplus ? simd::sigmoid(biased) : simd::set(1.0f));
      }
      simd::load_row(buf_.B + t * in_.states, in_.B, in_.B.offset(row, token + t, block_.group),
                     in_.states);
    }
  }

  // Writes a tile's token t.
  void store_tile_token(const Tensor& to, int64_t row, int64_t token, const float* tile,
                        int64_t t) {
    for (int64_t lane = 0; lane < used_; lane += kLanes) {
      simd::store(buf_.row + lane, simd::load(tile + at(lane, t)));
    }
    store_token(to, row, token + t, buf_.row);
  }

  void load_C(int64_t row, int64_t token, int64_t count) {
    for (int64_t t = 0; t < count; ++t) {
      simd::load_row(buf_.C + t * in_.states, in_.C, in_.C.offset(row, token + t, block_.group),
                     in_.states);
    }
  }

  // Takes the state over the loaded tile of `row`, which starts at `token`; with kOutput also
  // y = sum over n of C h. Meanwhile the next tile is fetched: its rows lie far apart, so the processor
  // doesn't foresee them.
  template <bool kOutput>
  void advance(int64_t row, int64_t token, int64_t count) {
    const int64_t next = token + count;
    const int64_t last = smaller(next + kScanTile, in_.length);
    const int64_t runs = ceil_div(in_.states, kStatesAtOnce);
    for (int64_t lane = 0; lane < used_; lane += kLanes) {
      for_each_run(in_.states, [&](int64_t n, auto run) {
        for (int64_t t = next + n / kStatesAtOnce; t < last; t += runs) {
          fetch(in_.u, row, t, lane);
          fetch(in_.delta, row, t, lane);
          if (kOutput && in_.z) fetch(in_.z, row, t, lane);
        }
        advance_run<kOutput, run.value>(lane, n, count);
      });
    }
  }

  const Inputs& in_;
  ScanBlock block_;
  int64_t width_;  // of the buffers' rows
  int64_t used_;   // lanes of a row that hold channels, whole vectors
  Buffers buf_;

 private:
  HAX_INLINE void fetch(const Tensor& from, int64_t row, int64_t token, int64_t lane) const {
    const int64_t offset = from.offset(row, token, block_.first + lane);
    __builtin_prefetch(static_cast<const char*>(from.data) +
                       offset * static_cast<int64_t>(size_of(from.type)));
  }

  template <bool kOutput, int kRun>
  HAX_INLINE void advance_run(int64_t lane, int64_t n, int64_t count) {
    float* const state = buf_.state + n * width_ + lane;
    const float* const rate = buf_.rate + n * width_ + lane;
    Vec h[kRun], a[kRun];
    for (int i = 0; i < kRun; ++i) h[i] = simd::load(state + i * width_);
    for (int i = 0; i < kRun; ++i) a[i] = simd::load(rate + i * width_);
    for (int64_t t = 0; t < count; ++t) {
      const Vec dt = simd::load(buf_.dt + at(lane, t));
      const Vec dtu = simd::load(buf_.dtu + at(lane, t));
      const float* const B = buf_.B + t * in_.states + n;
      for (int i = 0; i < kRun; ++i) h[i] = dtu * B[i] + (h[i] * simd::exp2m1(dt * a[i]) + h[i]);
      if constexpr (kOutput) {
        const float* const C = buf_.C + t * in_.states + n;
        Vec y = n == 0 ? Vec{} : simd::load(buf_.y + at(lane, t));
        for (int i = 0; i < kRun; ++i) y += h[i] * C[i];
        simd::store(buf_.y + at(lane, t), y);
      }
    }
    for (int i = 0; i < kRun; ++i) simd::store(state + i * width_, h[i]);
  }
};

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax::selective_scan
