#include "scan/causal_conv1d/causal_conv1d_cpu.hpp"

namespace hax::causal_conv1d {
namespace {

using simd::kLanes;

// `count` outputs from the count + W - 1 rows of inputs that they see.
template <int W>
void convolve_rows(const ChannelBlock& block, const Row* inputs, bool silu, int64_t count,
                   Row* outputs) {
  for (int64_t lane = 0; lane < block.count; lane += kLanes) {
    for (int64_t t = 0; t < count; ++t) {
      const simd::Vec sum = convolve<W>(block, inputs + t, lane);
      simd::store(&outputs[t][lane], silu ? simd::silu(sum) : sum);
    }
  }
}

template <int W>
void forward_tile(const ForwardParams& p, const ChannelBlock& block, int64_t row, int64_t begin,
                  int64_t end) {
  Row inputs[kStep + W - 1];
  Row outputs[kStep];
  p.sequences.for_each_piece(
      row, begin, end, [&](int64_t s, const Sequences::Range& range, int64_t first, int64_t last) {
        for (int64_t t = first; t < last; t += kStep) {
          const int64_t count = last - t < kStep ? last - t : kStep;
          load_inputs(inputs, p.x, p.initial_state, range, s, W, t - (W - 1), t + count, block);
          convolve_rows<W>(block, inputs, p.silu, count, outputs);
          for (int64_t i = 0; i < count; ++i) {
            simd::store_row(p.y, p.y.offset(row, range.begin + t + i, block.first), outputs[i],
                            block.count);
          }
        }
      });
}

void write_final_state(const ForwardParams& p, const ChannelBlock& block, int64_t s) {
  Row rows[kMaxWidth - 1];
  const Sequences::Range range = p.sequences.range(s);
  const int64_t history = p.width - 1;
  load_inputs(rows, p.x, p.initial_state, range, s, p.width, range.length - history, range.length,
              block);
  for (int64_t i = 0; i < history; ++i) {
    simd::store_row(p.final_state, p.final_state.offset(s, i, block.first), rows[i], block.count);
  }
}

template <int W>
void step_sequence(const StepParams& p, const ChannelBlock& block, int64_t b) {
  const int64_t source = p.slots.source(b);
  if (source < 0) return;
  Row window[W];
  Row output[1];
  std::memset(window, 0, sizeof(window));
  for (int64_t i = 0; i + 1 < W; ++i) {
    simd::load_row(window[i], p.state, p.state.offset(source, i, block.first), block.count);
  }
  for (int64_t t = 0; t < p.tokens; ++t) {
    simd::load_row(window[W - 1], p.x, p.x.offset(b, t, block.first), block.count);
    convolve_rows<W>(block, window, p.silu, 1, output);
    simd::store_row(p.y, p.y.offset(b, t, block.first), output[0], block.count);
    std::memmove(window[0], window[1], sizeof(Row) * (W - 1));
    const int64_t slot = p.slots.destination(b, t, p.tokens);
    if (slot < 0) continue;
    for (int64_t i = 0; i + 1 < W; ++i) {
      simd::store_row(p.state, p.state.offset(slot, i, block.first), window[i], block.count);
    }
  }
}

}  // namespace

template <>
void cpu_forward<kCpuLevel>(const ForwardParams& p, const ForwardPlan&, int num_threads) {
  const int64_t blocks = (p.channels + kBlock - 1) / kBlock;
  const int64_t tiles = (p.sequences.length + kTileTokens - 1) / kTileTokens;
  parallel_for(num_threads, p.sequences.batch * tiles * blocks, [&](int64_t task, int) {
    const int64_t begin = task / blocks % tiles * kTileTokens;
    const int64_t left = p.sequences.length - begin;
    ChannelBlock block;
    load_block(block, task % blocks, p.channels, p.width, p.weight, p.bias);
    dispatch_value<2, 3, 4, 5, 6, 7, 8>(p.width, [&](auto width) {
      forward_tile<width.value>(p, block, task / blocks / tiles, begin,
                                begin + (left < kTileTokens ? left : kTileTokens));
    });
  });
  if (!p.final_state) return;
  parallel_for(num_threads, p.sequences.count() * blocks, [&](int64_t task, int) {
    ChannelBlock block;
    load_block(block, task % blocks, p.channels, p.width, p.weight, p.bias);
    write_final_state(p, block, task / blocks);
  });
}

template <>
void cpu_step<kCpuLevel>(const StepParams& p, int num_threads) {
  const int64_t blocks = (p.channels + kBlock - 1) / kBlock;
  parallel_for(num_threads, p.batch * blocks, [&](int64_t task, int) {
    ChannelBlock block;
    load_block(block, task % blocks, p.channels, p.width, p.weight, p.bias);
    dispatch_value<2, 3, 4, 5, 6, 7, 8>(
        p.width, [&](auto width) { step_sequence<width.value>(p, block, task / blocks); });
  });
}

}  // namespace hax::causal_conv1d
