// What ssd's CPU kernels share: a block of heads of one group with their states and a tile of tokens in
// fp32. A tile is done as products of matrices (Dao and Gu, arXiv 2405.21060): with c_t the sum of dt A
// up to token t of the tile,
//   y_t = exp(c_t) C_t h + sum_{s<=t} (C_t . B_s) exp(c_t - c_s) dt_s x_s
//   h  <- exp(c_end) h + sum_s exp(c_end - c_s) dt_s B_s x_s
#pragma once

#include <cmath>

#include "core/parallel.hpp"
#include "scan/scan_simd.hpp"
#include "scan/ssd/ssd.hpp"
#include "scan/ssd/ssd_multiply.hpp"

namespace hax::ssd {
inline namespace HAX_CPU_LEVEL_NAME {

using simd::kLanes;
using simd::Vec;

static_assert(kScanTile % kScanPadding == 0 && kScanPadding % kLanes == 0);

// Lanes of -1 where column + lane <= last, of 0 elsewhere.
HAX_INLINE simd::IntVec columns_up_to(int64_t column, int64_t last) {
  simd::IntVec index = {};
  for (int i = 0; i < kLanes; ++i) index[i] = i;
  return index <= static_cast<int32_t>(last - column);
}

// to[column][row] = from[row][column] * weights[row], for (rows, columns) of `from`.
[[gnu::noinline]] inline void transpose_weighted(float* to, int64_t to_stride, const float* from,
                                                 int64_t from_stride, const float* weights,
                                                 int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; ++row) {
    const float weight = weights ? weights[row] : 1.0f;
    for (int64_t column = 0; column < columns; ++column) {
      to[column * to_stride + row] = from[row * from_stride + column] * weight;
    }
  }
}

class HeadScan {
 public:
  HeadScan(const Inputs& in, const ScanBlocks& blocks, int64_t block, Workspace& scratch)
      : in_(in),
        block_(blocks.at(block)),
        states_padded_(padded(in.states)),
        width_padded_(padded(in.width)),
        buf_(in, blocks.size, scratch) {}

  // The block's heads of a (..., H, P, N) tensor, zeros where it is none; `offset` is that of head 0.
  void load(float* to, const Tensor& states, int64_t offset) const {
    for (int64_t h = 0; h < block_.count; ++h, to += head_state_size(in_)) {
      if (states) {
        simd::load_transposed(to, width_padded_, states, head_offset(states, offset, h),
                              states.stride[states.ndim - 2], in_.width, in_.states);
      } else {
        simd::zero_row(to, head_state_size(in_));
      }
    }
  }

  void store(const Tensor& states, int64_t offset, const float* from) const {
    for (int64_t h = 0; h < block_.count; ++h, from += head_state_size(in_)) {
      simd::store_transposed(states, head_offset(states, offset, h), states.stride[states.ndim - 2],
                             from, width_padded_, in_.width, in_.states);
    }
  }

 protected:
  int64_t head_offset(const Tensor& states, int64_t offset, int64_t h) const {
    return offset + (block_.first + h) * states.stride[states.ndim - 3];
  }

  // One head of a token of a (B, L, H, P) tensor.
  void load_token(float* to, const Tensor& from, int64_t row, int64_t token, int64_t h) const {
    simd::load_padded_row(to, width_padded_, from, from.offset(row, token, block_.first + h),
                          in_.width);
  }
  void store_token(const Tensor& to, int64_t row, int64_t token, int64_t h,
                   const float* from) const {
    simd::store_row(to, to.offset(row, token, block_.first + h), from, in_.width);
  }

  // Reads what the block's heads share of a tile: B, dt and, unless only the state
  // is wanted, C, the scores and dt's slope.
  void load_tile(int64_t row, int64_t token, int64_t count, bool with_rest) {
    for (int64_t t = 0; t < count; ++t) {
      simd::load_padded_row(buf_.B + t * states_padded_, states_padded_, in_.B,
                            in_.B.offset(row, token + t, block_.group), in_.states);
    }
    load_steps(row, token, count, with_rest);
    if (!with_rest) return;
    for (int64_t t = 0; t < count; ++t) {
      simd::load_padded_row(buf_.C + t * states_padded_, states_padded_, in_.C,
                            in_.C.offset(row, token + t, block_.group), in_.states);
    }
    transpose_weighted(buf_.transposed, kScanTile, buf_.B, states_padded_, nullptr, count,
                       in_.states);
    multiply({.out = buf_.scores,
              .out_stride = kScanTile,
              .rows = count,
              .width = padded(count),
              .a = {buf_.C, states_padded_, 1},
              .b = buf_.transposed,
              .b_stride = kScanTile,
              .depth = in_.states});
  }

  void load_head(int64_t row, int64_t token, int64_t count, int64_t h) {
    for (int64_t t = 0; t < count; ++t) {
      load_token(buf_.x + t * width_padded_, in_.x, row, token + t, h);
    }
  }

  // D of a head, whose shape is (H) or (H, P).
  void load_skip(int64_t h) {
    simd::zero_row(buf_.skip, width_padded_);
    if (!in_.D) return;
    const int64_t head = block_.first + h;
    if (in_.D.ndim == 2) return simd::load_row(buf_.skip, in_.D, in_.D.offset(head), in_.width);
    for (int64_t p = 0; p < in_.width; ++p) buf_.skip[p] = *in_.D.at<float>(head);
  }

  // Decays of a head over the loaded tile. The sums c_t are made in fp64 and kept as two floats each, so
  // that differences keep their precision.
  void prepare_decays(int64_t count, int64_t h) {
    const float* const dt = buf_.dt + h * kScanTile;
    const auto A = static_cast<double>(*in_.A.at<float>(block_.first + h));
    double c = 0.0;
    for (int64_t t = 0; t < kScanTile; ++t) {
      if (t < count) c += static_cast<double>(dt[t]) * A;
      buf_.high[t] = static_cast<float>(c);
      buf_.low[t] = static_cast<float>(c - static_cast<double>(buf_.high[t]));
    }
    decay_less_1_ = static_cast<float>(std::expm1(c));
    for (int64_t t = 0; t < count; t += kLanes) {
      const Vec high = simd::load(buf_.high + t), low = simd::load(buf_.low + t);
      const Vec left = (buf_.high[kScanTile - 1] - high) + (buf_.low[kScanTile - 1] - low);
      simd::store(buf_.from_start + t, simd::exp(high + low));
      simd::store(buf_.to_end + t, simd::exp(left));
    }
  }

  // decay[t][s] = exp(c_t - c_s) and mix = decay dt_s scores, 0 for s > t.
  void prepare_mix(int64_t count, int64_t h) {
    const float* const dt = buf_.dt + h * kScanTile;
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t s = 0; s <= t; s += kLanes) {
        const int64_t at = t * kScanTile + s;
        const Vec difference =
            (buf_.high[t] - simd::load(buf_.high + s)) + (buf_.low[t] - simd::load(buf_.low + s));
        const simd::IntVec causal = columns_up_to(s, t);
        const Vec decay = causal ? simd::exp(difference) : Vec{};
        const Vec mix = decay * simd::load(dt + s) * simd::load(buf_.scores + at);
        simd::store(buf_.decay + at, decay);
        simd::store(buf_.mix + at, causal ? mix : Vec{});
      }
    }
  }

  // weighted[t] = from[t] * weights[t] (* more[t])
  void weight_rows(const float* from, int64_t count, const float* weights, const float* more) {
    for (int64_t t = 0; t < count; ++t) {
      const float weight = more ? weights[t] * more[t] : weights[t];
      for (int64_t n = 0; n < states_padded_; n += kLanes) {
        const int64_t at = t * states_padded_ + n;
        simd::store(buf_.weighted + at, simd::load(from + at) * weight);
      }
    }
  }

  // y = exp(c_t) C_t h, the part of the state before the tile.
  void outputs_of_state(int64_t count, const float* state) {
    weight_rows(buf_.C, count, buf_.from_start, nullptr);
    multiply({.out = buf_.y,
              .out_stride = width_padded_,
              .rows = count,
              .width = width_padded_,
              .a = {buf_.weighted, states_padded_, 1},
              .b = state,
              .b_stride = width_padded_,
              .depth = in_.states});
  }

  // y += mix x, the part of the tile's own tokens.
  void add_outputs_of_tokens(int64_t count) {
    multiply({.out = buf_.y,
              .out_stride = width_padded_,
              .rows = count,
              .width = width_padded_,
              .a = {buf_.mix, kScanTile, 1},
              .b = buf_.x,
              .b_stride = width_padded_,
              .depth = count,
              .terms = Terms::up_to_row,
              .add = true});
  }

  // state <- state decayed over the whole tile + weighted^T rows.
  void advance(float* state, const float* rows, int64_t count) {
    for (int64_t i = 0; i < head_state_size(in_); i += kLanes) {
      const Vec h = simd::load(state + i);
      simd::store(state + i, h * decay_less_1_ + h);
    }
    multiply({.out = state,
              .out_stride = width_padded_,
              .rows = in_.states,
              .width = width_padded_,
              .a = {buf_.weighted, 1, states_padded_},
              .b = rows,
              .b_stride = width_padded_,
              .depth = count,
              .add = true});
  }

  void advance_state(int64_t count, int64_t h) {
    weight_rows(buf_.B, count, buf_.to_end, buf_.dt + h * kScanTile);
    advance(buf_.state + h * head_state_size(in_), buf_.x, count);
  }

  const Inputs& in_;
  ScanBlock block_;
  int64_t states_padded_, width_padded_;
  Buffers buf_;
  float decay_less_1_ = 0.0f;  // of the head and tile that prepare_decays was called for

 private:
  void load_steps(int64_t row, int64_t token, int64_t count, bool with_slope) {
    simd::zero_row(buf_.raw, block_.count * kScanTile);
    for (int64_t t = 0; t < count; ++t) {
      float dt[kScanPadding], bias[kScanPadding] = {};
      simd::load_row(dt, in_.dt, in_.dt.offset(row, token + t, block_.first), block_.count);
      if (in_.dt_bias)
        simd::load_row(bias, in_.dt_bias, in_.dt_bias.offset(block_.first), block_.count);
      for (int64_t h = 0; h < block_.count; ++h) buf_.raw[h * kScanTile + t] = dt[h] + bias[h];
    }
    const Vec low = simd::set(in_.dt_min), high = simd::set(in_.dt_max);
    for (int64_t i = 0; i < block_.count * kScanTile; i += kLanes) {
      const Vec raw = simd::load(buf_.raw + i);
      const Vec dt = simd::softplus(raw);
      simd::store(buf_.dt + i, simd::min(high, simd::max(low, dt)));
      if (!with_slope) continue;
      const Vec slope = dt < low ? Vec{} : simd::sigmoid(raw);
      simd::store(buf_.slope + i, dt > high ? Vec{} : slope);
    }
  }
};

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax::ssd
