#include <gtest/gtest.h>

#include "finite_difference.hpp"
#include "golden_layer.hpp"

// Difference quotients of the whole layers: every parameter and the hidden states. Discrete
// choices (codes, selected keys, picks) stay put under so small a step.
namespace hax_test {
namespace {

class LayerGradient : public ::testing::TestWithParam<std::string> {};

TEST_P(LayerGradient, EveryParameter) {
  const std::string name = GetParam();
  const std::string base = name.substr(0, name.find('/'));
  const Safetensors file(golden_path("golden_mixer_" + base + ".safetensors"));
  LayerArgs args = golden_layer_args(file, name);
  // A short stretch around the start of the second sequence's padding.
  constexpr int64_t kBegin = 44, kEnd = 66;
  args.hidden_states = slice_axis(args.hidden_states, 1, kBegin, kEnd);
  args.attention_mask = slice_axis(args.attention_mask, 1, kBegin, kEnd);
  if (args.ranking_noise.present()) {
    args.ranking_noise = slice_axis(args.ranking_noise, 1, kBegin, kEnd);
  }
  args.config.sparse_keys = 10;
  const Array grad_out = random_normal(args.hidden_states.shape, 1);
  // The scorer's gradients come from the gate loss alone: a selection has none. Detached inputs
  // are why the other parameters are differenced without it.
  auto loss_with = [&](double gate_weight) {
    return [&args, &grad_out, gate_weight] {
      const LayerResult r = oracle_layer(args);
      return dot(r.out, grad_out) + gate_weight * r.sparse.gate_loss;
    };
  };
  const LayerGrads grads = oracle_layer_backward(args, oracle_layer(args), grad_out, 0.3);
  const FiniteDifferenceOptions options{.samples = 3, .step = 1e-5, .tolerance = 1e-5};
  EXPECT_TRUE(expect_gradient("hidden_states", loss_with(0.0), args.hidden_states,
                              grads.dhidden_states, options));
  for (auto& [param_name, value] : args.param) {
    const bool scorer = param_name.rfind("dx_proj", 0) == 0;
    EXPECT_TRUE(expect_gradient(param_name, loss_with(scorer ? 0.3 : 0.0), value,
                                grads.dparam.at(param_name), options));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, LayerGradient,
                         ::testing::Values("mamba/full", "mamba/sign_bin_lsh+key_selection",
                                           "mamba2/sliding_window+dilated",
                                           "mamba2/sign_bin_lsh+key_selection"),
                         [](const auto& test) { return golden_test_name(test.param); });

TEST(LayerConfig, KeysAreSharedOutBetweenPatterns) {
  LayerConfig config;
  config.pattern = "sign_bin_lsh+key_selection";
  EXPECT_EQ(config.keys_per_pattern(), 32);
  EXPECT_EQ(config.dilation(), 64);
  EXPECT_TRUE(config.has_pattern("key_selection"));
  EXPECT_FALSE(config.has_pattern("selection"));
  config.pattern = "dilated";
  EXPECT_EQ(config.keys_per_pattern(), 64);
  EXPECT_EQ(config.dilation(), 32);
}

TEST(LayerWithoutAttention, GradientsAndOutput) {
  for (const std::string base : {"mamba", "mamba2"}) {
    const Safetensors file(golden_path("golden_mixer_" + base + ".safetensors"));
    LayerArgs args = golden_layer_args(file, base + "/full");
    args.hidden_states = slice_axis(args.hidden_states, 1, 0, 9);
    args.attention_mask = Array();
    const Array with_attention = oracle_layer(args).out;
    args.config.pattern.clear();
    args.param.erase("E");
    args.param.erase("xx_proj.weight");
    const Array grad_out = random_normal(args.hidden_states.shape, 1);
    auto loss = [&] { return dot(oracle_layer(args).out, grad_out); };
    const LayerGrads grads = oracle_layer_backward(args, oracle_layer(args), grad_out, 0.0);
    EXPECT_TRUE(expect_gradient("hidden_states", loss, args.hidden_states, grads.dhidden_states));
    EXPECT_EQ(grads.dparam.size(), args.param.size());
    EXPECT_FALSE(expect_close("out", oracle_layer(args).out, with_attention, 1e-3));
  }
}

}  // namespace
}  // namespace hax_test
