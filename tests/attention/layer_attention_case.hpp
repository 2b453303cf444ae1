// Random cases of a HAX layer's attention: the tensors, and the arguments of the whole call.
#pragma once

#include <algorithm>
#include <numeric>
#include <random>

#include "support/comparator.hpp"
#include "support/tensor_builder.hpp"

namespace hax_test {

inline constexpr uint32_t kHax = HAX_PATTERN_LSH | HAX_PATTERN_KEY_SELECTION;
inline constexpr uint32_t kAll =
    kHax | HAX_PATTERN_SLIDING_WINDOW | HAX_PATTERN_SINK | HAX_PATTERN_DILATED;

struct LayerCase {
  int64_t batch = 2, length = 75, q_heads = 2, k_heads = 2, features = 8, d_v = 12, picks = 6;
  uint32_t patterns = kHax;
  int32_t statistics = HAX_LSH_STATISTICS_SEQUENCE;
  int32_t normalization = HAX_KEY_SCORE_NORM_FEATURE;
  std::vector<int64_t> cu_seqlens = {};
  hax_data_type type = kFp32;
  Layout layout = Layout::compact;

  bool has(uint32_t bit) const { return (patterns & bit) != 0; }
  int64_t sequences() const {
    return cu_seqlens.empty() ? batch : static_cast<int64_t>(cu_seqlens.size()) - 1;
  }
};

inline std::string describe(const LayerCase& c) {
  return "L=" + std::to_string(c.length) + " Hq=" + std::to_string(c.q_heads) +
         " Hk=" + std::to_string(c.k_heads) + " patterns " + std::to_string(c.patterns) +
         " statistics " + std::to_string(c.statistics) + " " + name_of(c.type) + " " +
         name_of(c.layout) + (c.cu_seqlens.empty() ? "" : " packed");
}

// Distinct positions of each (sequence, head), some entries unused.
inline Argument random_picks(const LayerCase& c) {
  std::mt19937_64 engine(5);
  Array picks({c.sequences(), c.k_heads, c.picks});
  for (int64_t s = 0; s < c.sequences(); ++s) {
    const auto i = static_cast<size_t>(s);
    const int64_t length = c.cu_seqlens.empty() ? c.length : c.cu_seqlens[i + 1] - c.cu_seqlens[i];
    for (int64_t h = 0; h < c.k_heads; ++h) {
      std::vector<int64_t> positions(static_cast<size_t>(length));
      std::iota(positions.begin(), positions.end(), 0);
      std::shuffle(positions.begin(), positions.end(), engine);
      for (int64_t m = 0; m < c.picks; ++m) {
        const bool used = m < length && m != 2;
        picks.at(s, h, m) = used ? static_cast<double>(positions[static_cast<size_t>(m)]) : -1.0;
      }
    }
  }
  return Argument::input(picks, kInt32);
}

// All tensors a case can need; those that it doesn't are absent.
struct LayerTensors {
  explicit LayerTensors(const LayerCase& c) {
    const auto in = [&](std::vector<int64_t> shape, hax_data_type type, double scale = 1.0) {
      Array values = random_normal(shape, seed_++);
      for (double& value : values.data) value *= scale;
      return Argument::input(values, type, c.layout);
    };
    const auto out = [&](bool wanted, std::vector<int64_t> shape, hax_data_type type) {
      return wanted ? Argument::output(shape, type, c.layout) : Argument();
    };
    const std::vector<int64_t> of_q = {c.batch, c.q_heads, c.length};
    const std::vector<int64_t> of_k = {c.batch, c.k_heads, c.length};
    const std::vector<int64_t> q_shape = {c.batch, c.length, c.q_heads, c.features};
    const std::vector<int64_t> k_shape = {c.batch, c.length, c.k_heads, c.features};
    const std::vector<int64_t> v_shape = {c.batch, c.length, c.k_heads, c.d_v};
    const std::vector<int64_t> o_shape = {c.batch, c.length, c.q_heads, c.d_v};
    const bool lsh = c.has(HAX_PATTERN_LSH), selection = c.has(HAX_PATTERN_KEY_SELECTION);
    const bool ranking = selection && c.picks > 0;
    const int64_t width = 2 * c.features;
    q = in(q_shape, c.type);
    k = in(k_shape, c.type);
    v = in(v_shape, c.type);
    d_o = in(o_shape, c.type);
    dlse = in(of_q, kFp32);
    if (!c.cu_seqlens.empty()) cu_seqlens = Argument::indices(c.cu_seqlens);
    if (lsh) R = in({c.features, 5}, kFp32);
    if (selection) {
      W1 = in({width, width}, c.type, 0.3);
      b1 = in({width}, kFp32);
      W2 = in({width, width}, c.type, 0.3);
      b2 = in({width}, kFp32);
      W3 = in({1, width}, c.type);
      b3 = in({1}, kFp32);
    }
    if (ranking) pick = random_picks(c);
    if (ranking) dloss = in({1}, kFp32);

    o = out(true, o_shape, c.type);
    lse = out(true, of_q, kFp32);
    key_order = out(lsh, of_k, kInt32);
    begin = out(lsh, of_q, kInt32);
    end = out(lsh, of_q, kInt32);
    code_q = out(lsh, of_q, kInt64);
    code_k = out(lsh, of_k, kInt64);
    score = out(selection, of_k, kFp32);
    dscore = out(ranking, of_k, kFp32);
    eviction = out(selection, of_k, kInt32);
    loss = out(ranking, {1}, kFp32);
    target = out(ranking, {c.sequences(), c.k_heads, c.picks}, kFp32);
    dq = out(true, q_shape, c.type);
    dk = out(true, k_shape, c.type);
    dv = out(true, v_shape, c.type);
    dW1 = out(ranking, {width, width}, kFp32);
    db1 = out(ranking, {width}, kFp32);
    dW2 = out(ranking, {width, width}, kFp32);
    db2 = out(ranking, {width}, kFp32);
    dW3 = out(ranking, {1, width}, kFp32);
    db3 = out(ranking, {1}, kFp32);
  }

  Argument q, k, v, cu_seqlens, R, W1, b1, W2, b2, W3, b3, pick, d_o, dlse, dloss;
  Argument o, lse, key_order, begin, end, code_q, code_k, score, dscore, eviction, loss, target;
  Argument dq, dk, dv, dW1, db1, dW2, db2, dW3, db3;

 private:
  uint64_t seed_ = 40;
};

inline constexpr float kScale = 0.35f;
inline constexpr int32_t kLshBudget = 5, kSelectionBudget = 7, kWindow = 4, kSink = 2,
                         kDilation = 6;

template <class Args>
void set_pattern_numbers(const LayerCase& c, Args& args) {
  args.patterns = c.patterns;
  args.window = c.has(HAX_PATTERN_SLIDING_WINDOW) ? kWindow : 0;
  args.sink = c.has(HAX_PATTERN_SINK) ? kSink : 0;
  args.dilation = c.has(HAX_PATTERN_DILATED) ? kDilation : 0;
}

template <class Args>
void set_scorer(const LayerTensors& t, Args& args) {
  args.W1 = t.W1.arg();
  args.b1 = t.b1.arg();
  args.W2 = t.W2.arg();
  args.b2 = t.b2.arg();
  args.W3 = t.W3.arg();
  args.b3 = t.b3.arg();
}

inline hax_layer_attention_forward_args forward_args(const LayerCase& c, const LayerTensors& t) {
  hax_layer_attention_forward_args args = {};
  args.struct_size = sizeof args;
  args.q = t.q.arg();
  args.k = t.k.arg();
  args.v = t.v.arg();
  args.cu_seqlens = t.cu_seqlens.arg();
  args.R = t.R.arg();
  set_scorer(t, args);
  args.pick = t.pick.arg();
  args.o = t.o.arg();
  args.lse = t.lse.arg();
  args.key_order = t.key_order.arg();
  args.begin = t.begin.arg();
  args.end = t.end.arg();
  args.score = t.score.arg();
  args.eviction = t.eviction.arg();
  args.loss = t.loss.arg();
  args.target = t.target.arg();
  set_pattern_numbers(c, args);
  if (c.has(HAX_PATTERN_LSH)) {
    args.lsh_budget = kLshBudget;
    args.statistics = c.statistics;
  }
  if (c.has(HAX_PATTERN_KEY_SELECTION)) {
    args.selection_budget = kSelectionBudget;
    args.normalization = c.normalization;
  }
  args.scale = kScale;
  return args;
}

inline hax_layer_attention_backward_args backward_args(const LayerCase& c, const LayerTensors& t) {
  hax_layer_attention_backward_args args = {};
  args.struct_size = sizeof args;
  args.q = t.q.arg();
  args.k = t.k.arg();
  args.v = t.v.arg();
  args.cu_seqlens = t.cu_seqlens.arg();
  args.o = t.o.arg();
  args.lse = t.lse.arg();
  args.key_order = t.key_order.arg();
  args.begin = t.begin.arg();
  args.end = t.end.arg();
  args.eviction = t.eviction.arg();
  args.d_o = t.d_o.arg();
  args.dlse = t.dlse.arg();
  args.dq = t.dq.arg();
  args.dk = t.dk.arg();
  args.dv = t.dv.arg();
  set_pattern_numbers(c, args);
  args.scale = kScale;
  args.deterministic = 1;
  if (!t.dloss.present()) return args;
  set_scorer(t, args);
  args.pick = t.pick.arg();
  args.score = t.score.arg();
  args.target = t.target.arg();
  args.dloss = t.dloss.arg();
  args.dW1 = t.dW1.arg();
  args.db1 = t.db1.arg();
  args.dW2 = t.dW2.arg();
  args.db2 = t.db2.arg();
  args.dW3 = t.dW3.arg();
  args.db3 = t.db3.arg();
  args.normalization = c.normalization;
  return args;
}

inline hax_sparse_pattern pattern_of(const LayerCase& c, const LayerTensors& t) {
  hax_sparse_pattern pattern = {};
  pattern.struct_size = sizeof pattern;
  set_pattern_numbers(c, pattern);
  pattern.key_order = t.key_order.arg();
  pattern.begin = t.begin.arg();
  pattern.end = t.end.arg();
  pattern.eviction = t.eviction.arg();
  return pattern;
}

}  // namespace hax_test
