// A mixer alone, with every random number given: for golden layers and the fp64 layer oracle.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/attention_picture.hpp"
#include "model/transform.hpp"
#include "model_test_backend.hpp"
#include "support/golden_layer.hpp"

namespace joint_recall {

using hax_test::Array;

inline std::vector<float> to_floats(const Array& array) {
  return {array.data.begin(), array.data.end()};
}

inline Array to_array(std::vector<int64_t> shape, const std::vector<float>& values) {
  return {std::move(shape), std::vector<double>(values.begin(), values.end())};
}

class GivenDraws : public RandomDraws {
 public:
  GivenDraws(Backend& backend, Array hash_projection, Array ranking_noise)
      : backend_(backend), R_(to_floats(hash_projection)), noise_(to_floats(ranking_noise)) {}

  void hash_projection(int64_t, Matrix R) override {
    ASSERT_EQ(static_cast<int64_t>(R_.size()), R.rows * R.columns);
    backend_.copy_in(R.data, R_.data(), R_.size() * sizeof(float));
  }
  void ranking_noise(int64_t, int64_t tokens, float* noise) override {
    ASSERT_EQ(static_cast<int64_t>(noise_.size()), tokens);
    backend_.copy_in(noise, noise_.data(), noise_.size() * sizeof(float));
  }

 private:
  Backend& backend_;
  std::vector<float> R_, noise_;
};

inline ModelConfig config_of(const hax_test::LayerArgs& args) {
  const hax_test::LayerConfig& layer = args.config;
  ModelConfig config = default_config(layer.mamba2 ? BaseArch::kMamba2 : BaseArch::kMamba, false);
  config.sparse_arch = parse_sparse_arch(layer.pattern.empty() ? "none" : layer.pattern);
  config.sparse_keys = layer.sparse_keys;
  config.data_max_length = layer.data_max_length;
  config.hidden_size = layer.hidden_size;
  config.expand = layer.inner_size / layer.hidden_size;
  config.state_size = layer.state_size;
  config.time_step_rank = layer.time_step_rank;
  config.layer_norm_epsilon = layer.norm_epsilon;
  if (layer.mamba2) {
    config.num_heads = layer.num_heads;
    config.head_dim = layer.head_dim;
    config.n_groups = layer.n_groups;
  }
  if (args.hash_projection.present()) config.num_hash = args.hash_projection.size(1);
  return config;
}

// One forward and backward of one mixer over a padded batch.
struct MixerRun {
  Array out, d_hidden_states, lse;
  double gate_loss = 0.0;
  std::map<std::string, Array> d_param;
  std::vector<LayerAttention> pictures;  // one for each sequence
};

inline MixerRun run_mixer(const ModelConfig& config, const hax_test::LayerArgs& args,
                          const Array& grad_out, double gate_weight) {
  const std::shared_ptr<Backend> backend = make_test_backend();
  ParameterStore store(*backend);
  const auto mixer = make_mixer(config, 0, "mixer", store);
  store.allocate();
  for (const Parameter& parameter : store.parameters()) {
    const Array& values = args.param.at(parameter.name.substr(6));
    EXPECT_EQ(values.shape, parameter.shape) << parameter.name;
    store.set(parameter, ParameterPart::kValue, to_floats(values));
  }
  EXPECT_EQ(store.parameters().size(), args.param.size());
  mixer->bind(store);

  Arena arena(*backend);
  GivenDraws draws(*backend, args.hash_projection, args.ranking_noise);
  Pass pass{*backend, arena, draws};
  pass.precision = config.precision;
  pass.training = true;
  pass.batch = pass.items = pass.sequences = args.hidden_states.size(0);
  pass.length = args.hidden_states.size(1);
  std::vector<uint8_t> mask;
  for (const double real : args.attention_mask.data) mask.push_back(real != 0.0);
  const OnBackend<uint8_t> mask_there(*backend, mask);
  if (!mask.empty()) pass.attention_mask = mask_there.data();
  const OnBackend<float> dgate_loss(*backend, {static_cast<float>(gate_weight)});
  pass.dgate_loss = dgate_loss.data();

  const int64_t hidden = config.hidden_size;
  const OnBackend<float> x(*backend, to_floats(args.hidden_states));
  const OnBackend<float> dy(*backend, to_floats(grad_out));
  const std::vector<float> zeros(args.hidden_states.data.size(), 0.0f);
  const OnBackend<float> y(*backend, zeros), dx(*backend, zeros);
  mixer->prepare(pass);
  // Without a norm; what goes past the mixer is taken away below.
  NormedStream stream;
  stream.hidden = compact(x.data(), pass.tokens(), hidden);
  mixer->forward(pass, stream, compact(y.data(), pass.tokens(), hidden));

  MixerRun run;
  if (const float* loss = mixer->ranking_loss()) {
    float value = 0.0f;
    backend->copy_out(&value, loss, sizeof value);
    run.gate_loss = double{value};
  }
  if (const Attention* attention = mixer->attention()) {
    for (int64_t b = 0; b < pass.batch; ++b) {
      Pass one{*backend, arena, draws};
      one.batch = one.items = one.sequences = 1;
      one.length = pass.length;
      const int64_t first = b * pass.length;
      Attention part = *attention;
      for (ConstTokens* m : {&part.q, &part.k, &part.v}) {
        *m = ConstMatrix{m->fp32().row(first), pass.length, m->columns, m->stride};
      }
      part.lse += first;
      for (const int32_t** index :
           {&part.keys.key_order, &part.keys.begin, &part.keys.end, &part.keys.eviction}) {
        if (*index != nullptr) *index += first;
      }
      run.pictures.push_back(attention_picture(one, 0, part));
    }
  }
  mixer->backward(pass, stream,
                  compact(static_cast<const float*>(dy.data()), pass.tokens(), hidden),
                  compact(dx.data(), pass.tokens(), hidden));
  store.add_fresh_gradients();
  run.out = to_array(args.hidden_states.shape, y.values());
  run.d_hidden_states = to_array(args.hidden_states.shape, dx.values());
  for (size_t i = 0; i < run.out.data.size(); ++i) {
    run.out.data[i] -= args.hidden_states.data[i];
    run.d_hidden_states.data[i] -= grad_out.data[i];
  }
  for (const Parameter& parameter : store.parameters()) {
    std::vector<float> gradient(static_cast<size_t>(parameter.count));
    store.get(parameter, ParameterPart::kGradient, gradient);
    run.d_param[parameter.name.substr(6)] = to_array(parameter.shape, gradient);
  }
  return run;
}

}  // namespace joint_recall
