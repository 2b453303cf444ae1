// Gradients of whole models: against the fp64 oracle, and, where the choice of keys can't jump, against
// differences of the model's own loss.
#include <gtest/gtest.h>

#include "model_oracle.hpp"
#include "support/comparator.hpp"

namespace joint_recall {
namespace {

constexpr uint64_t kSeed = 5;

// Lengths 11, 19 and 25 in one batch, so that sequences differ and padding matters.
std::vector<TestItem> mixed_items() {
  std::vector<TestItem> items = make_items(1, 1, 1, 2);
  for (const auto& [contexts, keys] : {std::pair{2, 2}, {2, 3}}) {
    items.push_back(make_items(2, 1, contexts, keys).front());
  }
  return items;
}

// Weights away from the small initial ones, so that every path carries a gradient worth comparing.
void roughen(Model& model) {
  for (const Parameter& parameter : model.parameters()) {
    std::vector<float> values = model.get(parameter, ParameterPart::kValue);
    const Array noise = hax_test::random_normal({parameter.count},
                                                static_cast<uint64_t>(parameter.offset), 0.0, 0.2);
    for (size_t i = 0; i < values.size(); ++i) values[i] += static_cast<float>(noise.data[i]);
    model.set(parameter, ParameterPart::kValue, values);
  }
}

class WholeModel : public testing::TestWithParam<BaseAndPattern> {};

TEST_P(WholeModel, EqualsTheOracle) {
  const auto model = make_model(tiny_config(GetParam().base, GetParam().sparse), kSeed);
  roughen(*model);
  const PaddedBatch batch = pad(mixed_items(), 29);
  const double gate_weight = 0.3;
  const StepResult step =
      model->forward_backward(view_of(batch), {.step = 7, .gate_loss_weight = gate_weight});
  const OracleStep oracle = oracle_step(*model, view_of(batch), kSeed, 7, gate_weight);
  EXPECT_NEAR(step.loss, oracle.loss, 1e-5 * oracle.loss);
  EXPECT_NEAR(step.gate_loss, oracle.gate_loss, 1e-5 * oracle.gate_loss);
  EXPECT_EQ(oracle.gate_loss > 0.0, GetParam().sparse.ends_with("key_selection"));
  for (const Parameter& parameter : model->parameters()) {
    const Array got = to_array(parameter.shape, model->get(parameter, ParameterPart::kGradient));
    if (parameter.name.ends_with("dx_proj_3.bias")) {
      EXPECT_NEAR(got.data.at(0), 0.0, 1e-6);  // exactly 0 but for rounding
      continue;
    }
    EXPECT_TRUE(
        hax_test::expect_close(parameter.name, got, oracle.gradient.at(parameter.name), 1e-4));
  }
}

// The layer oracle knows no Samba, which is checked by differences below.
std::vector<BaseAndPattern> models_with_oracle() {
  std::vector<BaseAndPattern> models = all_models();
  std::erase_if(models, [](const auto& model) { return model.base == BaseArch::kSamba; });
  return models;
}

INSTANTIATE_TEST_SUITE_P(All, WholeModel, testing::ValuesIn(models_with_oracle()),
                         [](const auto& param_info) { return name_of(param_info.param); });

// A loss that also looks at padded tokens, which no model's does: there too the mixer has to be what
// the oracle is.
TEST(ModelMixer, GradientsOfPaddedTokens) {
  for (const BaseArch base : {BaseArch::kMamba, BaseArch::kMamba2}) {
    SCOPED_TRACE(to_string(base));
    const std::string case_name = std::string(to_string(base)) + "/sign_bin_lsh+key_selection";
    const hax_test::Safetensors file(
        hax_test::golden_path("golden_mixer_" + std::string(to_string(base)) + ".safetensors"));
    const hax_test::LayerArgs args = hax_test::golden_layer_args(file, case_name);
    const Array grad_out = hax_test::random_normal(args.hidden_states.shape, 3);
    const hax_test::LayerResult result = hax_test::oracle_layer(args);
    const hax_test::LayerGrads want = hax_test::oracle_layer_backward(args, result, grad_out, 0.1);
    const MixerRun got = run_mixer(config_of(args), args, grad_out, 0.1);
    EXPECT_TRUE(
        hax_test::expect_close("d_hidden_states", got.d_hidden_states, want.dhidden_states, 1e-4));
    for (const auto& [name, gradient] : got.d_param) {
      if (name == "dx_proj_3.bias") continue;  // 0 but for rounding
      EXPECT_TRUE(hax_test::expect_close(name, gradient, want.dparam.at(name), 1e-4));
    }
  }
}

// Moves one parameter along its own gradient g: the loss has to change by |g|^2 per unit. The step is
// chosen for a change of about 1e-2; fp32 rounding of the loss (1e-6) and the third-order term then
// leave an error of some 1e-3.
void expect_differences(Model& model, const BatchView& batch) {
  const auto total_loss = [&] { return model.forward_backward(batch, {.step = 3}).loss; };
  for (const Parameter& parameter : model.parameters()) {
    total_loss();
    const std::vector<float> start = model.get(parameter, ParameterPart::kValue);
    const std::vector<float> gradient = model.get(parameter, ParameterPart::kGradient);
    double square = 0.0;
    for (const float g : gradient) square += double{g} * double{g};
    ASSERT_GT(square, 0.0) << parameter.name;
    const double h = std::min(5e-3 / square, 0.02 / std::sqrt(square));
    const auto loss_at = [&](double by) {
      std::vector<float> moved = start;
      for (size_t i = 0; i < moved.size(); ++i) moved[i] += static_cast<float>(by * gradient[i]);
      model.set(parameter, ParameterPart::kValue, moved);
      return total_loss();
    };
    const double quotient =
        (8.0 * (loss_at(h) - loss_at(-h)) - (loss_at(2.0 * h) - loss_at(-2.0 * h))) / (12.0 * h);
    model.set(parameter, ParameterPart::kValue, start);
    const double noise = 1e-6 / h;
    EXPECT_NEAR(quotient, square, 2e-3 * square + noise) << parameter.name;
  }
}

TEST(ModelDifferences, Samba) {
  const auto model = make_model(tiny_config(BaseArch::kSamba), kSeed);
  roughen(*model);
  const PackedBatch batch = pack(mixed_items());
  expect_differences(*model, view_of(batch));
  const PaddedBatch padded = pad(mixed_items(), 29);
  expect_differences(*model, view_of(padded));
}

TEST(ModelDifferences, MambaSlidingWindow) {
  const auto model = make_model(tiny_config(BaseArch::kMamba, "sliding_window"), kSeed);
  roughen(*model);
  const PackedBatch batch = pack(mixed_items());
  expect_differences(*model, view_of(batch));
}

TEST(ModelDifferences, Mamba2Full) {
  const auto model = make_model(tiny_config(BaseArch::kMamba2, "full"), kSeed);
  roughen(*model);
  const PackedBatch batch = pack(mixed_items());
  expect_differences(*model, view_of(batch));
}

}  // namespace
}  // namespace joint_recall
