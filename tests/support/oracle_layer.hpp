#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "array.hpp"
#include "oracle_attention.hpp"

// A whole HAX mixer (Mamba or Mamba-2 with sparse attention beside the scan) in fp64, composed
// from the operator oracles; forward and hand-derived backward.
namespace hax_test {

struct LayerConfig {
  bool mamba2 = false;
  std::string pattern;  // names joined by '+'; empty: the base model without attention
  int64_t hidden_size = 0;
  int64_t inner_size = 0;  // D
  int64_t state_size = 0;
  int64_t time_step_rank = 0;                         // Mamba only
  int64_t num_heads = 0, head_dim = 0, n_groups = 1;  // Mamba-2 only
  int64_t sparse_keys = 64;
  int64_t data_max_length = 2048;
  double norm_epsilon = 1e-5;  // Mamba-2 only

  std::vector<std::string> patterns() const;
  bool has_pattern(const std::string& name) const;
  int64_t keys_per_pattern() const;
  int64_t dilation() const { return data_max_length / keys_per_pattern(); }
};

struct LayerArgs {
  LayerConfig config;
  std::map<std::string, Array> param;  // in_proj.weight, conv1d.weight, A_log, ...
  Array hidden_states;                 // (B, L, hidden_size)
  Array attention_mask;                // (B, L) of 0 and 1, optional
  Array hash_projection;               // (N, num_bits), for sign_bin_lsh
  Array ranking_noise;                 // (B, L), for key_selection
};

// The attention beside the scan: everything that xx_proj's output leads to.
struct SparseBranch {
  Array k_and_q_projection;  // (B, L, 2N), keys first, not yet scaled
  Array q, k, v;             // (B, L, 1, ...), k scaled
  std::vector<Selection> selections;
  std::vector<std::vector<int64_t>> picks;  // of the ranking loss
  Array key_score;                          // (B, L, 1)
  double gate_loss = 0.0;
  Array a;  // (B, L, D)
};

struct LayerResult {
  Array out;  // (B, L, hidden_size)
  Array v;    // the convolution's output, the attention's values
  SparseBranch sparse;
  // What the backward reads again, by name.
  std::map<std::string, Array> kept;
};

struct LayerGrads {
  std::map<std::string, Array> dparam;
  Array dhidden_states;
};

LayerResult oracle_layer(const LayerArgs& args);
// Gradients of sum(out * grad_out) + gate_weight * gate_loss.
LayerGrads oracle_layer_backward(const LayerArgs& args, const LayerResult& result,
                                 const Array& grad_out, double gate_weight);

// The attention weights (B, L, L); rows of zeros where nothing is selected.
Array oracle_layer_attention_probability(const LayerResult& result);

}  // namespace hax_test
