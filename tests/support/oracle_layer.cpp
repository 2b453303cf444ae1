#include "oracle_layer.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "oracle_layer_parts.hpp"
#include "oracle_math.hpp"

namespace hax_test {
namespace {

KeyScoreArgs key_score_args(const LayerArgs& args, const SparseBranch& branch) {
  KeyScoreArgs score;
  score.q = branch.q;
  score.k = branch.k;
  score.w1 = param(args, "dx_proj_1.weight");
  score.b1 = param(args, "dx_proj_1.bias");
  score.w2 = param(args, "dx_proj_2.weight");
  score.b2 = param(args, "dx_proj_2.bias");
  score.w3 = param(args, "dx_proj_3.weight");
  score.b3 = param(args, "dx_proj_3.bias");
  score.normalization = QueryNormalization::kSequence;
  return score;
}

RankingLossArgs ranking_loss_args(const SparseBranch& branch) {
  return {branch.q, branch.k, branch.key_score, branch.picks, {}};
}

// Per sequence the positions with the largest draws; padded ones draw -1, so they come last.
std::vector<std::vector<int64_t>> ranking_picks(const LayerArgs& args) {
  const int64_t length = args.ranking_noise.size(1);
  std::vector<std::vector<int64_t>> picks;
  for (int64_t b = 0; b < args.ranking_noise.size(0); ++b) {
    auto draw = [&](int64_t t) {
      const bool padded = args.attention_mask.present() && args.attention_mask.at(b, t) == 0.0;
      return padded ? -1.0 : args.ranking_noise.at(b, t);
    };
    std::vector<int64_t> order(static_cast<size_t>(length));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t x, int64_t y) { return draw(x) > draw(y); });
    order.resize(static_cast<size_t>(std::min(length, args.config.keys_per_pattern())));
    picks.push_back(std::move(order));
  }
  return picks;
}

Selection select_pattern(const LayerArgs& args, const SparseBranch& branch,
                         const std::string& pattern, int64_t b) {
  const int64_t length = branch.q.size(1), budget = args.config.keys_per_pattern();
  if (pattern == "full") return select_full(length);
  if (pattern == "sliding_window") return select_sliding_window(length, budget);
  if (pattern == "sink") return select_sink(length, budget);
  if (pattern == "dilated") return select_dilated(length, args.config.dilation());
  if (pattern == "sign_bin_lsh") {
    const Array q = slice_axis(branch.q, 0, b, b + 1), k = slice_axis(branch.k, 0, b, b + 1);
    return select_lsh(oracle_lsh_hash(q, args.hash_projection, LshStatistics::kSequence).codes,
                      oracle_lsh_hash(k, args.hash_projection, LshStatistics::kSequence).codes,
                      budget);
  }
  if (pattern == "key_selection") {
    const Array score = slice_axis(branch.key_score, 0, b, b + 1);
    return select_by_eviction(oracle_key_select(score.data, budget));
  }
  throw std::invalid_argument("oracle_layer: unknown pattern " + pattern);
}

}  // namespace

std::vector<std::string> LayerConfig::patterns() const {
  std::vector<std::string> names;
  for (size_t begin = 0; begin < pattern.size();) {
    const size_t end = std::min(pattern.find('+', begin), pattern.size());
    names.push_back(pattern.substr(begin, end - begin));
    begin = end + 1;
  }
  return names;
}

bool LayerConfig::has_pattern(const std::string& name) const {
  const auto names = patterns();
  return std::find(names.begin(), names.end(), name) != names.end();
}

int64_t LayerConfig::keys_per_pattern() const {
  return sparse_keys / std::max<int64_t>(1, static_cast<int64_t>(patterns().size()));
}

const Array& param(const LayerArgs& args, const std::string& name) {
  const auto found = args.param.find(name);
  if (found == args.param.end()) {
    throw std::invalid_argument("oracle_layer: no parameter " + name);
  }
  return found->second;
}

Array mask_tokens(const LayerArgs& args, const Array& x) {
  if (!args.attention_mask.present()) return x;
  Array masked = x;
  for (int64_t b = 0; b < x.size(0); ++b) {
    for (int64_t t = 0; t < x.size(1); ++t) {
      for (int64_t c = 0; c < x.size(2); ++c) masked.at(b, t, c) *= args.attention_mask.at(b, t);
    }
  }
  return masked;
}

Array conv_weight(const LayerArgs& args) {
  const Array& weight = param(args, "conv1d.weight");
  return weight.reshape({weight.size(0), weight.size(2)});
}

Array negative_exp(const Array& A_log) {
  Array A = A_log;
  for (double& value : A.data) value = -std::exp(value);
  return A;
}

Array multiply(const Array& a, const Array& b) {
  if (a.shape != b.shape) throw std::invalid_argument("multiply: shapes differ");
  Array product = a;
  for (size_t i = 0; i < a.data.size(); ++i) product.data[i] *= b.data[i];
  return product;
}

Array gate_by_silu(const Array& x, const Array& gate) {
  Array factor = gate;
  for (double& value : factor.data) value = silu(value);
  return multiply(x, factor);
}

Array multiply_channels(const Array& x, const Array& e) {
  Array product = x;
  const auto channels = static_cast<size_t>(e.numel());
  for (size_t i = 0; i < x.data.size(); ++i) product.data[i] *= e.data[i % channels];
  return product;
}

AttentionArgs attention_args_of(const SparseBranch& branch) {
  return {branch.q, branch.k, branch.v, 1.0, branch.selections, {}};
}

SparseBranch run_sparse_branch(const LayerArgs& args, const Array& v) {
  const int64_t batch = v.size(0), length = v.size(1), N = args.config.state_size;
  SparseBranch branch;
  branch.k_and_q_projection = linear(v, param(args, "xx_proj.weight"));
  branch.k = slice_last(branch.k_and_q_projection, 0, N).reshape({batch, length, 1, N});
  for (double& value : branch.k.data) value /= std::sqrt(static_cast<double>(N));
  branch.q = slice_last(branch.k_and_q_projection, N, 2 * N).reshape({batch, length, 1, N});
  branch.v = v.reshape({batch, length, 1, v.size(2)});
  if (args.config.has_pattern("key_selection")) {
    branch.key_score = oracle_key_score(key_score_args(args, branch));
    branch.picks = ranking_picks(args);
    branch.gate_loss = oracle_ranking_loss(ranking_loss_args(branch));
  }
  for (int64_t b = 0; b < batch; ++b) {
    Selection chosen(length);
    for (const std::string& pattern : args.config.patterns()) {
      chosen.unite(select_pattern(args, branch, pattern, b));
    }
    branch.selections.push_back(std::move(chosen));
  }
  branch.a = oracle_attention(attention_args_of(branch)).o.reshape(v.shape);
  return branch;
}

Array sparse_branch_backward(const LayerArgs& args, const SparseBranch& branch, const Array& da,
                             double gate_weight, LayerGrads& grads) {
  const int64_t batch = branch.q.size(0), length = branch.q.size(1), N = args.config.state_size;
  if (args.config.has_pattern("key_selection")) {
    const KeyScoreGrads score = oracle_key_score_backward(
        key_score_args(args, branch),
        oracle_ranking_loss_backward(ranking_loss_args(branch), gate_weight));
    grads.dparam["dx_proj_1.weight"] = score.dw1;
    grads.dparam["dx_proj_1.bias"] = score.db1;
    grads.dparam["dx_proj_2.weight"] = score.dw2;
    grads.dparam["dx_proj_2.bias"] = score.db2;
    grads.dparam["dx_proj_3.weight"] = score.dw3;
    grads.dparam["dx_proj_3.bias"] = score.db3;
  }
  AttentionGrads attention = oracle_attention_backward(attention_args_of(branch),
                                                       da.reshape({batch, length, 1, da.size(2)}));
  for (double& value : attention.dk.data) value /= std::sqrt(static_cast<double>(N));
  const Array dprojection = concat_axis({attention.dk, attention.dq}, -1);
  const Array v = branch.v.reshape(da.shape);
  const LinearGrads projection = linear_backward(v, param(args, "xx_proj.weight"), dprojection);
  grads.dparam["xx_proj.weight"] = projection.dw;
  Array dv = attention.dv.reshape(da.shape);
  add_into(dv, projection.dx);
  return dv;
}

LayerResult oracle_layer(const LayerArgs& args) {
  return args.config.mamba2 ? mamba2_forward(args) : mamba_forward(args);
}

LayerGrads oracle_layer_backward(const LayerArgs& args, const LayerResult& result,
                                 const Array& grad_out, double gate_weight) {
  return args.config.mamba2 ? mamba2_backward(args, result, grad_out, gate_weight)
                            : mamba_backward(args, result, grad_out, gate_weight);
}

Array oracle_layer_attention_probability(const LayerResult& result) {
  const int64_t batch = result.v.size(0), length = result.v.size(1);
  return oracle_attention_probability(attention_args_of(result.sparse))
      .reshape({batch, length, length});
}

}  // namespace hax_test
