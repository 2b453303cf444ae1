#include "scan/causal_conv1d/causal_conv1d_cpu.hpp"

namespace hax::causal_conv1d {
namespace {

using simd::kLanes;

// Gradients of the convolution sums (before the activation) of tokens [first, first + count) of a
// sequence, 0 behind its end. inputs: the count + W - 1 rows that these tokens see.
template <int W>
void load_sum_gradients(const BackwardParams& p, const ChannelBlock& block, const Row* inputs,
                        const Sequences::Range& range, int64_t first, int64_t count, Row* dsum) {
  for (int64_t t = 0; t < count; ++t) {
    float* row = dsum[t];
    if (block.count < kBlock || first + t >= range.length) simd::zero_row(row, kBlock);
    if (first + t >= range.length) continue;
    simd::load_row(row, p.dy, p.dy.offset(range.row, range.begin + first + t, block.first),
                   block.count);
    if (!p.silu) continue;
    for (int64_t lane = 0; lane < block.count; lane += kLanes) {
      const simd::Vec sum = convolve<W>(block, inputs + t, lane);
      simd::store(&row[lane], simd::load(&row[lane]) * simd::silu_slope(sum));
    }
  }
}

// Adds the share of `count` tokens to the gradients of taps and bias.
template <int W>
void add_parameter_gradients(const ChannelBlock& block, const Row* inputs, const Row* dsum,
                             int64_t count, Row* sums) {
  for (int64_t lane = 0; lane < block.count; lane += kLanes) {
    simd::Vec dtaps[W] = {};
    simd::Vec dbias = {};
    for (int64_t t = 0; t < count; ++t) {
      const simd::Vec d = simd::load(&dsum[t][lane]);
      for (int w = 0; w < W; ++w) dtaps[w] += d * simd::load(&inputs[t + w][lane]);
      dbias += d;
    }
    for (int w = 0; w < W; ++w) simd::store(&sums[w][lane], simd::load(&sums[w][lane]) + dtaps[w]);
    simd::store(&sums[W][lane], simd::load(&sums[W][lane]) + dbias);
  }
}

// dx of one token from the dsum of that token and the W - 1 behind it.
template <int W>
void input_gradient(const ChannelBlock& block, const Row* dsum, float* dx) {
  for (int64_t lane = 0; lane < block.count; lane += kLanes) {
    simd::Vec d = {};
    for (int w = 0; w < W; ++w) {
      d += simd::load(&block.taps[w][lane]) * simd::load(&dsum[W - 1 - w][lane]);
    }
    simd::store(&dx[lane], d);
  }
}

// Adds dfinal_state's row i to a row of input gradients.
void add_final_gradient(const BackwardParams& p, const ChannelBlock& block, int64_t s, int64_t i,
                        float* dx) {
  Row row = {};
  simd::load_row(row, p.dfinal_state, p.dfinal_state.offset(s, i, block.first), block.count);
  for (int64_t c = 0; c < block.count; ++c) dx[c] += row[c];
}

// Tokens [begin, end) of a row: their dx, and their share of the parameters' gradients into `sums`.
template <int W>
void backward_tile(const BackwardParams& p, const ChannelBlock& block, int64_t row, int64_t begin,
                   int64_t end, Row* sums) {
  Row inputs[kStep + 2 * (W - 1)];
  Row dsum[kStep + W - 1];
  p.sequences.for_each_piece(
      row, begin, end, [&](int64_t s, const Sequences::Range& range, int64_t first, int64_t last) {
        for (int64_t t = first; t < last; t += kStep) {
          const int64_t count = last - t < kStep ? last - t : kStep;
          load_inputs(inputs, p.x, p.initial_state, range, s, W, t - (W - 1), t + count + W - 1,
                      block);
          load_sum_gradients<W>(p, block, inputs, range, t, count + W - 1, dsum);
          add_parameter_gradients<W>(block, inputs, dsum, count, sums);
          if (!p.dx) continue;
          for (int64_t i = 0; i < count; ++i) {
            Row dx;
            input_gradient<W>(block, dsum + i, dx);
            const int64_t state_row = t + i - (range.length - (W - 1));
            if (p.dfinal_state && state_row >= 0) add_final_gradient(p, block, s, state_row, dx);
            simd::store_row(p.dx, p.dx.offset(row, range.begin + t + i, block.first), dx,
                            block.count);
          }
        }
      });
}

// The initial state is the W - 1 inputs before token 0; the first W - 1 tokens see them.
template <int W>
void initial_state_gradient(const BackwardParams& p, const ChannelBlock& block, int64_t s) {
  Row inputs[2 * (W - 1)];
  Row dsum[2 * (W - 1)] = {};  // of tokens -(W - 1) .. W - 2; those before token 0 have none
  const Sequences::Range range = p.sequences.range(s);
  load_inputs(inputs, p.x, p.initial_state, range, s, W, -(W - 1), W - 1, block);
  load_sum_gradients<W>(p, block, inputs, range, 0, W - 1, dsum + W - 1);
  for (int64_t i = 0; i + 1 < W; ++i) {
    Row d;
    input_gradient<W>(block, dsum + i, d);
    if (p.dfinal_state && i >= range.length) {
      add_final_gradient(p, block, s, i - range.length, d);
    }
    simd::store_row(p.dinitial_state, p.dinitial_state.offset(s, i, block.first), d, block.count);
  }
}

// Adds the tiles' shares in order and writes dweight and dbias of a block of channels.
void reduce_parameter_gradients(const BackwardParams& p, const BackwardPlan& plan,
                                const ChannelBlock& block) {
  Row sums[kMaxWidth + 1] = {};
  const int64_t tiles = p.sequences.batch * plan.tiles_per_row;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    for (int w = 0; w <= p.width; ++w) {
      const float* partial = plan.partial + (tile * (p.width + 1) + w) * p.channels + block.first;
      for (int64_t c = 0; c < block.count; ++c) sums[w][c] += partial[c];
    }
  }
  for (int64_t c = 0; c < block.count && p.dweight; ++c) {
    for (int w = 0; w < p.width; ++w) *p.dweight.at<float>(block.first + c, w) = sums[w][c];
  }
  for (int64_t c = 0; c < block.count && p.dbias; ++c) {
    *p.dbias.at<float>(block.first + c) = sums[p.width][c];
  }
}

}  // namespace

template <>
void cpu_backward<kCpuLevel>(const BackwardParams& p, const BackwardPlan& plan, int num_threads) {
  const int64_t blocks = (p.channels + kBlock - 1) / kBlock;
  const int64_t tiles = plan.tiles_per_row;
  parallel_for(num_threads, p.sequences.batch * tiles * blocks, [&](int64_t task, int) {
    const int64_t tile = task / blocks;
    const int64_t begin = tile % tiles * kTileTokens;
    const int64_t left = p.sequences.length - begin;
    ChannelBlock block;
    load_block(block, task % blocks, p.channels, p.width, p.weight, p.bias);
    Row sums[kMaxWidth + 1] = {};
    dispatch_value<2, 3, 4, 5, 6, 7, 8>(p.width, [&](auto width) {
      backward_tile<width.value>(p, block, tile / tiles, begin,
                                 begin + (left < kTileTokens ? left : kTileTokens), sums);
    });
    for (int w = 0; w <= p.width; ++w) {
      float* partial = plan.partial + (tile * (p.width + 1) + w) * p.channels + block.first;
      std::memcpy(partial, sums[w], static_cast<size_t>(block.count) * sizeof(float));
    }
  });
  parallel_for(num_threads, blocks, [&](int64_t index, int) {
    ChannelBlock block;
    load_block(block, index, p.channels, p.width, p.weight, p.bias);
    reduce_parameter_gradients(p, plan, block);
    for (int64_t s = 0; s < p.sequences.count() && p.dinitial_state; ++s) {
      dispatch_value<2, 3, 4, 5, 6, 7, 8>(
          p.width, [&](auto width) { initial_state_gradient<width.value>(p, block, s); });
    }
  });
}

}  // namespace hax::causal_conv1d
