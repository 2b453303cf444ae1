// What the convolution's CPU kernels share: blocks of channels, their taps, and windows of input rows.
#pragma once

#include "core/parallel.hpp"
#include "core/simd_rows.hpp"
#include "scan/causal_conv1d/causal_conv1d.hpp"

namespace hax::causal_conv1d {
inline namespace HAX_CPU_LEVEL_NAME {

inline constexpr int64_t kBlock = 64;  // channels handled together
inline constexpr int64_t kStep = 64;   // tokens whose rows are held in fp32 at a time
static_assert(kTileTokens % kStep == 0 && kBlock % simd::kLanes == 0);

using Row = float[kBlock];

// Channels [first, first + count) with their taps and bias in fp32; lanes past count are 0.
struct ChannelBlock {
  int64_t first, count;
  Row taps[kMaxWidth];
  Row bias;
};

[[gnu::noinline]] inline void load_block(ChannelBlock& block, int64_t index, int64_t channels,
                                         int width, const Tensor& weight, const Tensor& bias) {
  block.first = index * kBlock;
  block.count = channels - block.first < kBlock ? channels - block.first : kBlock;
  std::memset(block.taps, 0, sizeof(block.taps));
  std::memset(block.bias, 0, sizeof(block.bias));
  for (int64_t c = 0; c < block.count; ++c) {
    float taps[kMaxWidth];
    simd::load_row(taps, weight, weight.offset(block.first + c), width);
    for (int w = 0; w < width; ++w) block.taps[w][c] = taps[w];
  }
  if (bias) {
    simd::load_row(block.bias, bias, bias.offset(block.first), block.count);
  }
}

// Inputs [first, last) of sequence s, counted from its start, as rows of fp32. Tokens before the
// sequence come from initial_state or are 0, tokens behind it are 0.
[[gnu::noinline]] inline void load_inputs(Row* rows, const Tensor& x, const Tensor& initial_state,
                                          const Sequences::Range& range, int64_t s, int width,
                                          int64_t first, int64_t last, const ChannelBlock& block) {
  for (int64_t t = first; t < last; ++t) {
    float* row = rows[t - first];
    if (block.count < kBlock || t < 0 || t >= range.length) simd::zero_row(row, kBlock);
    if (t >= 0 && t < range.length) {
      simd::load_row(row, x, x.offset(range.row, range.begin + t, block.first), block.count);
    } else if (t < 0 && initial_state) {
      simd::load_row(row, initial_state, initial_state.offset(s, t + width - 1, block.first),
                     block.count);
    }
  }
}

// bias + sum_w taps[w] inputs[w], one vector of channels.
template <int W>
HAX_INLINE simd::Vec convolve(const ChannelBlock& block, const Row* inputs, int64_t lane) {
  simd::Vec sum = simd::load(&block.bias[lane]);
  for (int w = 0; w < W; ++w)
    sum += simd::load(&block.taps[w][lane]) * simd::load(&inputs[w][lane]);
  return sum;
}

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax::causal_conv1d
