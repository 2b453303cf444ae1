#include "model/layers.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace joint_recall {

ResidualStep::ResidualStep(const ModelConfig& config, int64_t layer, const std::string& norm_prefix,
                           std::unique_ptr<Transform> transform, ParameterStore& store)
    : layer_(layer), norm_name_(norm_prefix + ".weight"), transform_(std::move(transform)) {
  in_.epsilon = static_cast<float>(config.layer_norm_epsilon);
  store.declare(norm_name_, {config.hidden_size});
}

void ResidualStep::bind(const ParameterStore& store) {
  in_.weight = store.weight(norm_name_);
  transform_->bind(store);
}

Matrix ResidualStep::forward(Pass& pass, Matrix hidden) {
  in_.hidden = hidden;
  const Matrix out = pass.arena.matrix(hidden.rows, hidden.columns);
  transform_->forward(pass, in_, out);
  return out;
}

Tokens ResidualStep::backward(Pass& pass, ConstTokens d_hidden) {
  const Tokens d_old = pass.arena.tokens(d_hidden.rows, d_hidden.columns);
  const Arena::Scope scope(pass.arena, pass.branches);
  transform_->backward(pass, in_, d_hidden, d_old);
  return d_old;
}

std::unique_ptr<Transform> make_mixer(const ModelConfig& config, int64_t layer,
                                      const std::string& prefix, ParameterStore& store) {
  if (config.base_arch == BaseArch::kMamba2) return make_mamba2_mixer(config, layer, prefix, store);
  const auto& attending = config.attn.layers;
  if (config.base_arch == BaseArch::kSamba &&
      std::find(attending.begin(), attending.end(), layer) != attending.end()) {
    return make_attention_mixer(config, prefix, store);
  }
  return make_mamba_mixer(config, layer, prefix, store);
}

std::vector<ResidualStep> make_residual_steps(const ModelConfig& config, ParameterStore& store) {
  std::vector<ResidualStep> steps;
  const bool samba = config.base_arch == BaseArch::kSamba;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const std::string prefix = fmt::format("backbone.layers.{}.", layer);
    steps.emplace_back(config, layer, prefix + (samba ? "mixer_norm" : "norm"),
                       make_mixer(config, layer, prefix + "mixer", store), store);
    if (!samba) continue;
    steps.emplace_back(config, layer, prefix + "mlp_norm", make_mlp(config, prefix + "mlp", store),
                       store);
  }
  return steps;
}

}  // namespace joint_recall
