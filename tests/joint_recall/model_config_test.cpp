#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "hax/hax.h"
#include "model/config.hpp"

namespace joint_recall {
namespace {

const std::string kShippedConfigs = HAX_TEST_GOLDEN_DIR "/../../examples/joint_recall/configs";

// The text of the ModelError that the call throws, "" if it throws none.
template <class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const ModelError& error) {
    return error.what();
  }
  return "";
}

void expect_mentions(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* word : words)
    EXPECT_NE(text.find(word), std::string::npos) << word << "\n" << text;
}

TEST(ModelConfig, ShippedFilesAreTheDefaults) {
  for (const BaseArch base : {BaseArch::kMamba, BaseArch::kMamba2, BaseArch::kSamba}) {
    EXPECT_EQ(load_config(kShippedConfigs, base, false), default_config(base, false));
  }
  EXPECT_EQ(load_config(kShippedConfigs, BaseArch::kMamba2, true),
            default_config(BaseArch::kMamba2, true));
  EXPECT_EQ(default_config(BaseArch::kMamba2, true).head_dim, 32);
  EXPECT_EQ(default_config(BaseArch::kMamba, true).intermediate_size(), 256);
  EXPECT_EQ(default_config(BaseArch::kSamba, false).mlp_size(), 256);
}

TEST(ModelConfig, TakesThePublishedFields) {
  const ModelConfig config = config_from_json(
      R"({"bos_token_id": 1, "chunk_size": 256, "conv_kernel": 3, "eos_token_id": 2, "expand": 4,
          "fuse_cross_entropy": true, "fuse_norm": true, "head_dim": 32, "hidden_act": "silu",
          "hidden_size": 64, "initializer_range": 0.2, "layer_norm_epsilon": 1e-06,
          "model_type": "mamba2", "n_groups": 2, "num_heads": 8, "num_hidden_layers": 3,
          "pad_token_id": 3, "rescale_prenorm_residual": false, "residual_in_fp32": true,
          "rms_norm": true, "state_size": 48, "tie_word_embeddings": false,
          "time_step_floor": 0.0002, "time_step_max": 0.2, "time_step_min": 0.002,
          "time_step_rank": 8, "transformers_version": "4.49.0", "use_bias": false,
          "use_cache": true, "use_conv_bias": false, "vocab_size": 77})",
      "text");
  EXPECT_EQ(config.base_arch, BaseArch::kMamba2);
  EXPECT_EQ(config.conv_kernel, 3);
  EXPECT_EQ(config.expand, 4);
  EXPECT_EQ(config.head_dim, 32);
  EXPECT_EQ(config.initializer_range, 0.2);
  EXPECT_EQ(config.layer_norm_epsilon, 1e-6);
  EXPECT_EQ(config.n_groups, 2);
  EXPECT_EQ(config.num_hidden_layers, 3);
  EXPECT_FALSE(config.rescale_prenorm_residual);
  EXPECT_EQ(config.state_size, 48);
  EXPECT_EQ(config.time_step_floor, 0.0002);
  EXPECT_EQ(config.time_step_max, 0.2);
  EXPECT_EQ(config.time_step_min, 0.002);
  EXPECT_FALSE(config.use_conv_bias);
  EXPECT_EQ(config.vocab_size, 77);
  const ModelConfig samba = config_from_json(
      R"({"model_type": "samba", "norm_eps": 1e-6, "hidden_ratio": 8, "time_step_rank": "auto",
          "attn": {"layers": [0, 2], "num_heads": 2, "num_kv_heads": 1, "qkv_bias": false,
                   "rope_theta": 500.0, "window_size": 16}})",
      "text");
  EXPECT_EQ(samba.attn, (AttnConfig{{0, 2}, 2, 1, 16, 500.0}));
  EXPECT_EQ(samba.layer_norm_epsilon, 1e-6);
  EXPECT_EQ(samba.hidden_ratio, 8);
  EXPECT_EQ(samba.time_step_rank, 2);
}

TEST(ModelConfig, JsonRoundTrip) {
  for (const BaseArch base : {BaseArch::kMamba, BaseArch::kMamba2, BaseArch::kSamba}) {
    ModelConfig config = default_config(base, false);
    if (base != BaseArch::kSamba)
      config.sparse_arch = parse_sparse_arch("sign_bin_lsh+key_selection");
    config.sparse_keys = 48;
    config.num_hash = 5;
    config.data_max_length = 512;
    config.statistics = HashStatistics::kCausal;
    config.hash_redraw = HashRedraw::kOnce;
    config.key_score_norm = KeyScoreNorm::kFeature;
    config.precision = Precision::kBf16;
    config.time_step_min = 0.0123;
    EXPECT_EQ(config_from_json(to_json(config), "text"), config);
  }
}

TEST(ModelConfig, ErrorsNameFieldAndValue) {
  const auto parse = [](const char* text) {
    return error_of([&] { config_from_json(text, "some.json"); });
  };
  expect_mentions(parse("{"), {"some.json", "JSON"});
  expect_mentions(parse("[1]"), {"some.json", "model_type"});
  expect_mentions(parse(R"({"model_type": "rnn"})"), {"some.json", "model_type", "rnn", "samba"});
  expect_mentions(parse(R"({"model_type": "mamba2", "hiden_size": 64})"), {"hiden_size", "64"});
  expect_mentions(parse(R"({"model_type": "mamba2", "hidden_size": "64"})"),
                  {"hidden_size", "integer", "\"64\""});
  expect_mentions(parse(R"({"model_type": "mamba2", "hidden_size": 64.5})"),
                  {"hidden_size", "64.5"});
  expect_mentions(parse(R"({"model_type": "mamba2", "use_bias": true})"), {"use_bias", "true"});
  expect_mentions(parse(R"({"model_type": "mamba2", "hidden_act": "gelu"})"),
                  {"hidden_act", "gelu"});
  expect_mentions(parse(R"({"model_type": "mamba2", "state_size": 0})"), {"state_size", "got 0"});
  expect_mentions(parse(R"({"model_type": "mamba2", "head_dim": 15})"),
                  {"head_dim", "128", "8 * 15"});
  expect_mentions(parse(R"({"model_type": "mamba2", "n_groups": 3})"), {"n_groups", "got 3"});
  expect_mentions(parse(R"({"model_type": "mamba", "intermediate_size": 100})"),
                  {"intermediate_size", "128", "100"});
  expect_mentions(parse(R"({"model_type": "mamba", "conv_kernel": 9})"),
                  {"conv_kernel", "2..8", "9"});
  expect_mentions(parse(R"({"model_type": "mamba", "time_step_max": 1e-9})"), {"time_step_max"});
  expect_mentions(parse(R"({"model_type": "samba", "sparse_arch": "full"})"),
                  {"sparse_arch", "samba", "full"});
  expect_mentions(parse(R"({"model_type": "samba", "attn": {"num_heads": 3}})"), {"attn.num"});
  expect_mentions(parse(R"({"model_type": "samba", "attn": {"layers": [4]}})"),
                  {"attn.layers", "4"});
  expect_mentions(parse(R"({"model_type": "mamba", "sparse_arch": "sliding"})"),
                  {"sparse_arch", "'sliding'", "sliding_window+sink"});
  expect_mentions(parse(R"({"model_type": "mamba", "sparse_arch": "full", "num_hash": 64})"),
                  {"num_hash", "64"});
  expect_mentions(error_of([] { load_config("/no/such/dir", BaseArch::kMamba, true); }),
                  {"config_dir", "/no/such/dir/mamba_double_size.json"});
  expect_mentions(error_of([] { default_config(BaseArch::kSamba, true); }), {"samba"});
}

TEST(ModelConfig, KeysAreSharedByThePatterns) {
  ModelConfig config = default_config(BaseArch::kMamba2, false);
  EXPECT_EQ(config.keys_per_pattern(), 0);
  config.sparse_arch = parse_sparse_arch("dilated");
  EXPECT_EQ(config.keys_per_pattern(), 64);
  EXPECT_EQ(config.dilation(), 32);
  config.sparse_arch = parse_sparse_arch("sliding_window+dilated");
  EXPECT_EQ(config.keys_per_pattern(), 32);
  EXPECT_EQ(config.dilation(), 64);
  config.data_max_length = 31;
  EXPECT_NE(error_of([&] { check_config(config); }), "");
}

TEST(ModelConfig, NamesOfPatterns) {
  ASSERT_EQ(sparse_arch_names().size(), 9u);
  for (const std::string& name : sparse_arch_names()) {
    EXPECT_EQ(to_string(parse_sparse_arch(name)), name);
  }
  EXPECT_EQ(parse_sparse_arch("sliding_window+sink").patterns,
            HAX_PATTERN_SLIDING_WINDOW | HAX_PATTERN_SINK);
}

}  // namespace
}  // namespace joint_recall
