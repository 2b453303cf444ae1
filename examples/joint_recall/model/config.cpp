#include "model/config.hpp"

#include <fmt/format.h>

#include "hax/hax.h"

namespace joint_recall {
namespace {

constexpr int64_t kMaxTokens = INT32_MAX;

void check_range(const char* field, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    throw ModelError(fmt::format("{}: expected {}..{}, got {}", field, least, most, value));
  }
}

void check_positive(const char* field, double value) {
  // Written so that NaN fails.
  if (!(value > 0.0 && value < 1e30)) {
    throw ModelError(fmt::format("{}: expected a positive number, got {}", field, value));
  }
}

void check_attention(const ModelConfig& config) {
  const AttnConfig& attn = config.attn;
  check_range("attn.num_heads", attn.num_heads, 1, config.hidden_size);
  check_range("attn.num_kv_heads", attn.num_kv_heads, 1, attn.num_heads);
  check_range("attn.window_size", attn.window_size, 1, kMaxTokens);
  check_positive("attn.rope_theta", attn.rope_theta);
  if (attn.num_heads % attn.num_kv_heads != 0) {
    throw ModelError(fmt::format("attn.num_kv_heads: expected a divisor of num_heads {}, got {}",
                                 attn.num_heads, attn.num_kv_heads));
  }
  if (config.hidden_size % (2 * attn.num_heads) != 0) {
    throw ModelError(fmt::format(
        "attn.num_heads: expected heads of an even width, got {} heads for hidden_size {}",
        attn.num_heads, config.hidden_size));
  }
  check_range("hidden_size / attn.num_heads", config.hidden_size / attn.num_heads, 2, 256);
  for (const int64_t layer : attn.layers) {
    check_range("attn.layers", layer, 0, config.num_hidden_layers - 1);
  }
  check_range("hidden_ratio", config.hidden_ratio, 1, 64);
}

void check_sparse(const ModelConfig& config) {
  if (config.base_arch == BaseArch::kSamba) {
    throw ModelError(
        fmt::format("sparse_arch: expected none with base_arch samba, which has its own attention "
                    "layers, got {}",
                    to_string(config.sparse_arch)));
  }
  check_range("sparse_keys", config.sparse_keys, config.sparse_arch.pattern_count(), kMaxTokens);
  check_range("num_hash", config.num_hash, 1, 63);
  check_range("data_max_length", config.data_max_length, 1, kMaxTokens);
  // Values of the attention are the layer's channels.
  check_range("expand * hidden_size with sparse attention", config.intermediate_size(), 1, 256);
  if (config.sparse_arch.has(HAX_PATTERN_DILATED) && config.dilation() < 1) {
    throw ModelError(
        fmt::format("data_max_length: expected at least the {} keys of the dilated pattern, got {}",
                    config.keys_per_pattern(), config.data_max_length));
  }
}

}  // namespace

int64_t ModelConfig::mlp_size() const {
  const int64_t wanted = 2 * hidden_size * hidden_ratio / 3;
  return (wanted + 255) / 256 * 256;
}

int64_t ModelConfig::keys_per_pattern() const {
  return sparse_arch.present() ? sparse_keys / sparse_arch.pattern_count() : 0;
}

int64_t ModelConfig::dilation() const {
  return sparse_arch.present() ? data_max_length / keys_per_pattern() : 0;
}

ModelConfig default_config(BaseArch base, bool double_width) {
  ModelConfig config;
  config.base_arch = base;
  if (base == BaseArch::kSamba) {
    if (double_width) {
      throw ModelError("double width: expected base_arch mamba or mamba2, got samba");
    }
    config.hidden_size = 32;
    config.num_hidden_layers = 4;
    config.initializer_range = 0.02;
  } else {
    config.hidden_size = double_width ? 128 : 64;
  }
  if (base == BaseArch::kMamba2) {
    config.head_dim = double_width ? 32 : 16;
  } else {
    config.state_size = 16;
    config.rescale_prenorm_residual = false;
  }
  return config;
}

void check_config(const ModelConfig& config) {
  check_range("vocab_size", config.vocab_size, 1, 1 << 24);
  check_range("hidden_size", config.hidden_size, 1, 1 << 16);
  check_range("expand", config.expand, 1, 64);
  check_range("state_size", config.state_size, 1, 256);
  check_range("conv_kernel", config.conv_kernel, 2, 8);
  check_range("num_hidden_layers", config.num_hidden_layers, 1, 1024);
  check_positive(config.base_arch == BaseArch::kSamba ? "norm_eps" : "layer_norm_epsilon",
                 config.layer_norm_epsilon);
  check_positive("initializer_range", config.initializer_range);
  check_positive("time_step_min", config.time_step_min);
  check_positive("time_step_max", config.time_step_max);
  check_positive("time_step_floor", config.time_step_floor);
  if (config.time_step_max < config.time_step_min) {
    throw ModelError(fmt::format("time_step_max: expected at least time_step_min {}, got {}",
                                 config.time_step_min, config.time_step_max));
  }
  if (config.base_arch == BaseArch::kMamba2) {
    check_range("num_heads", config.num_heads, 1, config.intermediate_size());
    check_range("head_dim", config.head_dim, 1, 256);
    if (config.num_heads * config.head_dim != config.intermediate_size()) {
      throw ModelError(fmt::format(
          "head_dim: expected num_heads * head_dim = expand * hidden_size = {}, got {} * {}",
          config.intermediate_size(), config.num_heads, config.head_dim));
    }
    check_range("n_groups", config.n_groups, 1, config.num_heads);
    if (config.num_heads % config.n_groups != 0) {
      throw ModelError(fmt::format("n_groups: expected a divisor of num_heads {}, got {}",
                                   config.num_heads, config.n_groups));
    }
  } else {
    check_range("time_step_rank", config.time_step_rank, 1, 1 << 16);
    check_positive("time_step_scale", config.time_step_scale);
  }
  if (config.base_arch == BaseArch::kSamba) check_attention(config);
  if (config.sparse_arch.present()) check_sparse(config);
}

}  // namespace joint_recall
