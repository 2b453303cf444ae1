// What a model is: the fields of the configuration files, and our own modes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/error.hpp"

namespace joint_recall {

enum class BaseArch { kMamba, kMamba2, kSamba };
const char* to_string(BaseArch base);
BaseArch parse_base_arch(std::string_view text);  // throws ModelError

// The key patterns whose union every query attends, as bits (HAX_PATTERN_*); 0 for none.
struct SparseArch {
  uint32_t patterns = 0;

  bool present() const { return patterns != 0; }
  bool has(uint32_t pattern) const { return (patterns & pattern) != 0; }
  int pattern_count() const;
  bool operator==(const SparseArch&) const = default;
};
// "none", "full", "sliding_window+sink", "sign_bin_lsh+key_selection", ...
std::string to_string(SparseArch sparse);
SparseArch parse_sparse_arch(std::string_view text);  // throws ModelError
std::vector<std::string> sparse_arch_names();         // all nine, "none" first

// How each feature of queries and keys is centred and scaled before hashing (hax/lsh.h).
enum class HashStatistics { kNone, kSequence, kCausal };
// Whether the hash projection is drawn anew at every call or once, to be saved with the weights.
enum class HashRedraw { kCall, kOnce };
// Over which axis the running query sum is normalised for key scores (hax/key_selection.h).
enum class KeyScoreNorm { kFeature, kSequence };
// Element type of the activations handed to libhax. Weights, dense layers, the residual stream and
// the optimiser are fp32 in both.
enum class Precision { kFp32, kBf16 };
const char* to_string(HashStatistics statistics);             // none, sequence, causal
const char* to_string(HashRedraw redraw);                     // call, once
const char* to_string(KeyScoreNorm norm);                     // feature, sequence
const char* to_string(Precision precision);                   // fp32, bf16
HashStatistics parse_hash_statistics(std::string_view text);  // these throw ModelError
HashRedraw parse_hash_redraw(std::string_view text);
KeyScoreNorm parse_key_score_norm(std::string_view text);
Precision parse_precision(std::string_view text);

// Samba's attention layers.
struct AttnConfig {
  std::vector<int64_t> layers = {1, 3};  // counted from 0
  int64_t num_heads = 4;
  int64_t num_kv_heads = 4;
  int64_t window_size = 64;  // the query's own token counts
  double rope_theta = 10000.0;
  bool operator==(const AttnConfig&) const = default;
};

// Field names are those of the configuration files.
struct ModelConfig {
  BaseArch base_arch = BaseArch::kMamba2;
  SparseArch sparse_arch;
  int64_t sparse_keys = 64;
  int64_t num_hash = 8;
  int64_t data_max_length = 2048;

  int64_t vocab_size = 100;
  int64_t hidden_size = 64;
  int64_t expand = 2;
  int64_t state_size = 32;
  int64_t conv_kernel = 4;
  bool use_conv_bias = true;
  int64_t num_hidden_layers = 2;
  double layer_norm_epsilon = 1e-5;  // "norm_eps" in Samba's file

  int64_t num_heads = 8;  // num_heads, head_dim, n_groups: mamba2 alone
  int64_t head_dim = 16;
  int64_t n_groups = 1;
  int64_t time_step_rank = 8;  // mamba and samba alone
  AttnConfig attn;             // samba alone
  int64_t hidden_ratio = 4;    // samba alone: of the MLP's width

  double initializer_range = 0.1;
  bool rescale_prenorm_residual = true;  // out_proj starts divided by sqrt(layers)
  double time_step_min = 0.001;
  double time_step_max = 0.1;
  double time_step_floor = 1e-4;
  double time_step_scale = 1.0;  // mamba and samba alone: of dt_proj's initial range

  HashStatistics statistics = HashStatistics::kSequence;
  HashRedraw hash_redraw = HashRedraw::kCall;
  KeyScoreNorm key_score_norm = KeyScoreNorm::kSequence;
  Precision precision = Precision::kFp32;

  int64_t intermediate_size() const { return expand * hidden_size; }
  int64_t mlp_size() const;          // samba: 2/3 of hidden_ratio * hidden_size, up to the next 256
  int64_t keys_per_pattern() const;  // sparse_keys shared out; 0 without sparse attention
  int64_t dilation() const;          // data_max_length / keys_per_pattern
  bool operator==(const ModelConfig&) const = default;
};

// The published configuration of a base; double_width: hidden_size 128, mamba2's heads 32 wide (the
// "Base (2x dim)" row; not for samba).
ModelConfig default_config(BaseArch base, bool double_width);

// Reads <config_dir>/<base>.json, or <base>_double_size.json. Fields that are absent keep
// default_config's values; unknown fields, wrong types and values out of range throw ModelError.
ModelConfig load_config(const std::string& config_dir, BaseArch base, bool double_width);

// A configuration as JSON text and back: what a checkpoint carries. `origin` names the text in
// errors.
std::string to_json(const ModelConfig& config);
ModelConfig config_from_json(std::string_view text, const std::string& origin);

// Throws ModelError naming the first field whose value, alone or beside others, makes no model.
void check_config(const ModelConfig& config);

}  // namespace joint_recall
