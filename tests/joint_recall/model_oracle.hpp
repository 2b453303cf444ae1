// A whole Mamba or Mamba-2 model in fp64, put together from the layer oracle.
#pragma once

#include <cmath>

#include "model/random.hpp"
#include "model_items_fixture.hpp"
#include "model_mixer_fixture.hpp"

namespace joint_recall {

struct RmsnormGrads {
  Array dx, dweight;
};

inline Array rmsnorm_oracle(const Array& x, const Array& weight, double eps) {
  const int64_t C = weight.numel(), rows = x.numel() / C;
  Array y = x;
  for (int64_t r = 0; r < rows; ++r) {
    double* row = &y.data[static_cast<size_t>(r * C)];
    double squares = 0.0;
    for (int64_t c = 0; c < C; ++c) squares += row[c] * row[c];
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(C) + eps);
    for (int64_t c = 0; c < C; ++c) row[c] *= scale * weight.at(c);
  }
  return y;
}

inline RmsnormGrads rmsnorm_oracle_backward(const Array& x, const Array& weight, double eps,
                                            const Array& dy) {
  const int64_t C = weight.numel(), rows = x.numel() / C;
  RmsnormGrads grads{hax_test::zeros_like(x), hax_test::zeros_like(weight)};
  for (int64_t r = 0; r < rows; ++r) {
    const auto at = static_cast<size_t>(r * C);
    double squares = 0.0, along = 0.0;
    for (int64_t c = 0; c < C; ++c) {
      const double value = x.data[at + static_cast<size_t>(c)];
      squares += value * value;
      along += value * dy.data[at + static_cast<size_t>(c)] * weight.at(c);
    }
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(C) + eps);
    for (int64_t c = 0; c < C; ++c) {
      const size_t i = at + static_cast<size_t>(c);
      grads.dweight.at(c) += dy.data[i] * x.data[i] * scale;
      grads.dx.data[i] = scale * (dy.data[i] * weight.at(c) -
                                  x.data[i] * along * scale * scale / static_cast<double>(C));
    }
  }
  return grads;
}

struct OracleStep {
  double loss = 0.0, gate_loss = 0.0;
  std::map<std::string, Array> gradient;
};

// Loss and gradients of micro-step 0 of optimiser step `step`, of a padded batch.
inline OracleStep oracle_step(const Model& model, const BatchView& batch, uint64_t seed,
                              uint64_t step, double gate_weight) {
  const ModelConfig& config = model.config();
  const int64_t B = batch.batch, L = batch.length, C = config.hidden_size;
  std::map<std::string, Array> value;
  OracleStep result;
  for (const Parameter& p : model.parameters()) {
    value[p.name] = to_array(p.shape, model.get(p, ParameterPart::kValue));
    result.gradient[p.name] = Array(p.shape);
  }
  const Array& embedding = value.at("backbone.embeddings.weight");
  Array& d_embedding = result.gradient.at("backbone.embeddings.weight");

  Array hidden({B, L, C});
  for (int64_t t = 0; t < B * L; ++t) {
    for (int64_t c = 0; c < C; ++c) {
      hidden.data[static_cast<size_t>(t * C + c)] =
          embedding.at(batch.inputs[static_cast<size_t>(t)], c);
    }
  }
  std::vector<hax_test::LayerArgs> args(static_cast<size_t>(config.num_hidden_layers));
  std::vector<hax_test::LayerResult> layers;
  std::vector<Array> streams;
  for (size_t l = 0; l < args.size(); ++l) {
    const std::string prefix = "backbone.layers." + std::to_string(l) + ".";
    hax_test::LayerArgs& layer = args[l];
    layer.config = {.mamba2 = config.base_arch == BaseArch::kMamba2,
                    .pattern = config.sparse_arch.present() ? to_string(config.sparse_arch) : "",
                    .hidden_size = C,
                    .inner_size = config.intermediate_size(),
                    .state_size = config.state_size,
                    .time_step_rank = config.time_step_rank,
                    .num_heads = config.num_heads,
                    .head_dim = config.head_dim,
                    .n_groups = config.n_groups,
                    .sparse_keys = config.sparse_keys,
                    .data_max_length = config.data_max_length,
                    .norm_epsilon = config.layer_norm_epsilon};
    for (const auto& [name, array] : value) {
      if (name.starts_with(prefix + "mixer.")) layer.param[name.substr(prefix.size() + 6)] = array;
    }
    layer.attention_mask = Array({B, L});
    layer.ranking_noise = Array({B, L});
    layer.hash_projection = Array({config.state_size, config.num_hash});
    const auto item = static_cast<uint32_t>(l);
    for (size_t t = 0; t < static_cast<size_t>(B * L); ++t) {
      layer.attention_mask.data[t] = batch.attention_mask[t];
      layer.ranking_noise.data[t] =
          double{random_uniform({seed, RandomPurpose::kRankingNoise, item, step, 0}, t)};
    }
    for (size_t i = 0; i < layer.hash_projection.data.size(); ++i) {
      layer.hash_projection.data[i] =
          double{random_normal({seed, RandomPurpose::kHashProjection, item, step, 0}, i)};
    }
    streams.push_back(hidden);
    layer.hidden_states =
        rmsnorm_oracle(hidden, value.at(prefix + "norm.weight"), config.layer_norm_epsilon);
    layers.push_back(hax_test::oracle_layer(layer));
    hax_test::add_into(hidden, layers.back().out);
    result.gate_loss += layers.back().sparse.gate_loss;
  }

  const Array& norm_f = value.at("backbone.norm_f.weight");
  const Array normed = rmsnorm_oracle(hidden, norm_f, config.layer_norm_epsilon);
  Array d_normed = hax_test::zeros_like(normed);
  const auto asked = batch.asked_positions.size();
  for (size_t a = 0; a < asked; ++a) {
    const auto at = static_cast<size_t>(batch.asked_positions[a]) * static_cast<size_t>(C);
    std::vector<double> logits(static_cast<size_t>(config.vocab_size), 0.0);
    double sum = 0.0;
    for (int64_t w = 0; w < config.vocab_size; ++w) {
      double& logit = logits[static_cast<size_t>(w)];
      for (int64_t c = 0; c < C; ++c) {
        logit += normed.data[at + static_cast<size_t>(c)] * embedding.at(w, c);
      }
      sum += std::exp(logit);
    }
    result.loss += (std::log(sum) - logits[static_cast<size_t>(batch.asked_targets[a])]) /
                   static_cast<double>(asked);
    for (int64_t w = 0; w < config.vocab_size; ++w) {
      const double d = (std::exp(logits[static_cast<size_t>(w)]) / sum -
                        (w == batch.asked_targets[a] ? 1.0 : 0.0)) /
                       static_cast<double>(asked);
      for (int64_t c = 0; c < C; ++c) {
        const size_t i = at + static_cast<size_t>(c);
        d_normed.data[i] += d * embedding.at(w, c);
        d_embedding.at(w, c) += d * normed.data[i];
      }
    }
  }
  RmsnormGrads through =
      rmsnorm_oracle_backward(hidden, norm_f, config.layer_norm_epsilon, d_normed);
  result.gradient.at("backbone.norm_f.weight") = through.dweight;
  Array d_hidden = through.dx;
  for (size_t l = args.size(); l-- > 0;) {
    const std::string prefix = "backbone.layers." + std::to_string(l) + ".";
    const hax_test::LayerGrads grads =
        hax_test::oracle_layer_backward(args[l], layers[l], d_hidden, gate_weight);
    for (const auto& [name, array] : grads.dparam)
      result.gradient[prefix + "mixer." + name] = array;
    const RmsnormGrads norm =
        rmsnorm_oracle_backward(streams[l], value.at(prefix + "norm.weight"),
                                config.layer_norm_epsilon, grads.dhidden_states);
    result.gradient.at(prefix + "norm.weight") = norm.dweight;
    hax_test::add_into(d_hidden, norm.dx);
  }
  for (int64_t t = 0; t < B * L; ++t) {
    for (int64_t c = 0; c < C; ++c) {
      d_embedding.at(batch.inputs[static_cast<size_t>(t)], c) +=
          d_hidden.data[static_cast<size_t>(t * C + c)];
    }
  }
  return result;
}

}  // namespace joint_recall
