// Initial weights, evaluation, attention pictures and errors.
#include <gtest/gtest.h>

#include <cmath>

#include "model/error.hpp"
#include "model_items_fixture.hpp"

namespace joint_recall {
namespace {

struct Spread {
  double mean, deviation, least, most;
};

Spread spread(const Model& model, const std::string& name) {
  const std::vector<float> values = model.get(model.parameter(name), ParameterPart::kValue);
  Spread result{0.0, 0.0, INFINITY, -INFINITY};
  double squares = 0.0;
  for (const float value : values) {
    result.mean += double{value};
    squares += double{value} * double{value};
    result.least = std::min(result.least, double{value});
    result.most = std::max(result.most, double{value});
  }
  const auto count = static_cast<double>(values.size());
  result.mean /= count;
  result.deviation = std::sqrt(squares / count - result.mean * result.mean);
  return result;
}

void expect_normal(const Model& model, const std::string& name, double deviation) {
  const Spread got = spread(model, name);
  EXPECT_NEAR(got.mean, 0.0, 0.1 * deviation) << name;
  EXPECT_NEAR(got.deviation, deviation, 0.1 * deviation) << name;
}

void expect_uniform(const Model& model, const std::string& name, double bound) {
  const Spread got = spread(model, name);
  EXPECT_NEAR(got.deviation, bound / std::sqrt(3.0), 0.1 * bound) << name;
  EXPECT_GT(got.most, 0.8 * bound) << name;
  EXPECT_LE(got.most, bound) << name;
  EXPECT_LT(got.least, -0.8 * bound) << name;
  EXPECT_GE(got.least, -bound) << name;
}

void expect_constant(const Model& model, const std::string& name, double value) {
  const Spread got = spread(model, name);
  EXPECT_EQ(got.least, value) << name;
  EXPECT_EQ(got.most, value) << name;
}

// softplus(bias) has to lie between the time-step limits.
void expect_time_steps(const Model& model, const std::string& name) {
  const Spread got = spread(model, name);
  EXPECT_GE(std::log1p(std::exp(got.least)), 0.00099) << name;
  EXPECT_LE(std::log1p(std::exp(got.most)), 0.101) << name;
  EXPECT_GT(got.deviation, 0.3) << name;
}

TEST(InitialWeights, Mamba2) {
  ModelConfig config = default_config(BaseArch::kMamba2, false);
  config.sparse_arch = parse_sparse_arch("sign_bin_lsh+key_selection");
  const auto model = make_model(config);
  const std::string mixer = "backbone.layers.1.mixer.";
  expect_normal(*model, "backbone.embeddings.weight", 0.1);
  expect_normal(*model, mixer + "in_proj.weight", 0.1);
  expect_normal(*model, mixer + "xx_proj.weight", 0.1);
  expect_normal(*model, mixer + "conv1d.weight", 0.1);
  expect_normal(*model, mixer + "dx_proj_1.weight", 0.1);
  expect_constant(*model, mixer + "conv1d.bias", 0.0);
  expect_constant(*model, mixer + "dx_proj_1.bias", 0.0);
  expect_constant(*model, mixer + "dx_proj_3.bias", 0.0);
  expect_constant(*model, mixer + "D", 1.0);
  expect_constant(*model, mixer + "E", 1.0);
  expect_constant(*model, mixer + "norm.weight", 1.0);
  expect_constant(*model, "backbone.layers.0.norm.weight", 1.0);
  expect_constant(*model, "backbone.norm_f.weight", 1.0);
  expect_uniform(*model, mixer + "out_proj.weight", 1.0 / std::sqrt(128.0) / std::sqrt(2.0));
  expect_time_steps(*model, mixer + "dt_bias");
  const std::vector<float> A_log =
      model->get(model->parameter(mixer + "A_log"), ParameterPart::kValue);
  for (size_t h = 0; h < 8; ++h) EXPECT_NEAR(A_log[h], std::log(double(h + 1)), 1e-6);
  EXPECT_EQ(model->parameter(mixer + "conv1d.weight").shape, (std::vector<int64_t>{192, 1, 4}));
}

TEST(InitialWeights, MambaAndSamba) {
  const auto model = make_model(default_config(BaseArch::kMamba, false));
  const std::string mixer = "backbone.layers.0.mixer.";
  expect_uniform(*model, mixer + "conv1d.weight", 0.5);
  expect_uniform(*model, mixer + "conv1d.bias", 0.5);
  expect_uniform(*model, mixer + "dt_proj.weight", 1.0 / std::sqrt(8.0));
  expect_time_steps(*model, mixer + "dt_proj.bias");
  expect_normal(*model, mixer + "out_proj.weight", 0.1);
  const std::vector<float> A_log =
      model->get(model->parameter(mixer + "A_log"), ParameterPart::kValue);
  for (size_t i = 0; i < A_log.size(); ++i)
    EXPECT_NEAR(A_log[i], std::log(double(i % 16 + 1)), 1e-6);

  const auto samba = make_model(default_config(BaseArch::kSamba, false));
  expect_normal(*samba, "backbone.layers.1.mixer.q_proj.weight", 0.02);
  expect_normal(*samba, "backbone.layers.3.mlp.down_proj.weight", 0.02);
  expect_constant(*samba, "backbone.layers.2.mlp_norm.weight", 1.0);
  expect_uniform(*samba, "backbone.layers.2.mixer.conv1d.weight", 0.5);
  EXPECT_EQ(samba->parameter("backbone.layers.0.mlp.gate_proj.weight").shape,
            (std::vector<int64_t>{256, 32}));
}

// Sizes counted by hand from the layers' definitions.
TEST(InitialWeights, ParameterCounts) {
  EXPECT_EQ(make_model(default_config(BaseArch::kMamba2, false))->trainable_count(),
            100 * 64 + 64 + 2 * (64 + 328 * 64 + 192 * 5 + 3 * 8 + 128 + 64 * 128));
  EXPECT_EQ(
      make_model(default_config(BaseArch::kMamba, false))->trainable_count(),
      100 * 64 + 64 + 2 * (64 + 256 * 64 + 128 * 5 + 40 * 128 + 128 * 9 + 128 * 17 + 64 * 128));
}

TEST(ModelInterface, EvaluateCountsItems) {
  const auto model = make_model(tiny_config(BaseArch::kMamba2));
  const PackedBatch batch = pack(make_items(1, 6));
  const EvalResult result = model->evaluate(view_of(batch), 0);
  ASSERT_EQ(result.predictions.size(), batch.asked.targets.size());
  double sum = 0.0;
  for (size_t item = 0; item < 6; ++item) {
    int right = 0;
    for (size_t j = 4 * item; j < 4 * item + 4; ++j) {
      right += result.predictions[j] == batch.asked.targets[j];
    }
    sum += right / 4.0;
  }
  EXPECT_EQ(result.items, 6);
  EXPECT_NEAR(result.accuracy, sum / 6.0, 1e-12);
  EXPECT_NEAR(result.loss, std::log(24.0), 0.5);
}

TEST(ModelInterface, HashIsRedrawnOrKept) {
  const PackedBatch batch = pack(make_items(1, 6));
  ModelConfig config = tiny_config(BaseArch::kMamba2, "sign_bin_lsh");
  const auto redrawn = make_model(config);
  EXPECT_EQ(redrawn->evaluate(view_of(batch), 1).loss, redrawn->evaluate(view_of(batch), 1).loss);
  EXPECT_NE(redrawn->evaluate(view_of(batch), 1).loss, redrawn->evaluate(view_of(batch), 2).loss);
  EXPECT_THROW(redrawn->parameter("backbone.layers.0.mixer.hash_projection"), ModelError);

  config.hash_redraw = HashRedraw::kOnce;
  const auto kept = make_model(config);
  const double loss = kept->evaluate(view_of(batch), 1).loss;
  EXPECT_EQ(kept->evaluate(view_of(batch), 2).loss, loss);
  const Parameter& R = kept->parameter("backbone.layers.0.mixer.hash_projection");
  EXPECT_FALSE(R.trainable);
  EXPECT_THROW(kept->get(R, ParameterPart::kGradient), ModelError);
  std::vector<float> values = kept->get(R, ParameterPart::kValue);
  for (int step = 1; step <= 2; ++step) kept->train_step(view_of(batch), step, 0.01, 0.1);
  EXPECT_EQ(kept->get(R, ParameterPart::kValue), values) << "the optimiser leaves buffers alone";
}

TEST(ModelInterface, AttentionPictures) {
  const std::vector<TestItem> items = make_items(1, 1, 3, 3);
  const PackedBatch batch = pack(items);
  for (const auto& [base, sparse] : all_models()) {
    SCOPED_TRACE(name_of({base, sparse}));
    const auto model = make_model(tiny_config(base, sparse));
    const std::vector<LayerAttention> pictures = model->attention(view_of(batch), 0);
    const bool attends = sparse != "none" || base == BaseArch::kSamba;
    ASSERT_EQ(pictures.size(), attends ? 2u : 0u);
    for (size_t p = 0; p < pictures.size(); ++p) {
      const LayerAttention& picture = pictures[p];
      EXPECT_EQ(picture.layer, base == BaseArch::kSamba ? 2 * int64_t(p) + 1 : int64_t(p));
      EXPECT_EQ(picture.num_heads, base == BaseArch::kSamba ? 4 : 1);
      EXPECT_EQ(picture.length, batch.rows());
      const auto L = static_cast<size_t>(picture.length);
      ASSERT_EQ(picture.patterns.size(), static_cast<size_t>(picture.num_heads) * L * L);
      const uint32_t allowed = base == BaseArch::kSamba ? HAX_PATTERN_SLIDING_WINDOW
                                                        : parse_sparse_arch(sparse).patterns;
      uint32_t seen = 0;
      for (size_t row = 0; row < static_cast<size_t>(picture.num_heads) * L; ++row) {
        double sum = 0.0;
        bool any = false;
        for (size_t j = 0; j < L; ++j) {
          const uint32_t bits = picture.patterns[row * L + j];
          seen |= bits;
          any = any || bits != 0;
          const float probability = picture.probability[row * L + j];
          EXPECT_TRUE(bits == 0 || j <= row % L);
          EXPECT_TRUE(bits != 0 || probability == 0.0f);
          sum += double{probability};
        }
        // Probabilities use the log-sum-exp of the library, so this checks that both agree on the keys.
        EXPECT_NEAR(sum, any ? 1.0 : 0.0, 1e-5);
      }
      EXPECT_EQ(seen, allowed);
    }
  }
}

TEST(ModelInterface, BadArgumentsAreNamed) {
  const auto model = make_model(tiny_config(BaseArch::kMamba));
  const auto error_of = [&](auto call) -> std::string {
    try {
      call();
    } catch (const ModelError& error) {
      return error.what();
    }
    return "no error";
  };
  const PackedBatch good = pack(make_items(1, 2));
  const auto with = [&](auto change) {
    PackedBatch batch = good;
    change(batch);
    return error_of([&] { model->evaluate(view_of(batch), 0); });
  };
  const auto mentions = [](const std::string& text, const char* word) {
    EXPECT_NE(text.find(word), std::string::npos) << text;
  };
  mentions(with([](PackedBatch& b) { b.inputs[3] = 24; }), "batch.inputs[3]");
  mentions(with([](PackedBatch& b) { b.inputs[3] = -1; }), "got -1");
  mentions(with([](PackedBatch& b) { b.cu_seqlens[1] = 1000; }), "cu_seqlens[2]");
  mentions(with([](PackedBatch& b) { b.cu_seqlens.back() = 3; }), "cu_seqlens");
  mentions(with([](PackedBatch& b) { b.asked.positions[0] = 1000; }), "asked_positions[0]");
  mentions(with([](PackedBatch& b) { b.asked.targets.pop_back(); }), "asked_targets");
  mentions(with([](PackedBatch& b) { b.asked.offsets.pop_back(); }), "asked_offsets");
  mentions(error_of([&] { model->forward_backward(view_of(good), {.index = 2, .count = 2}); }),
           "micro_step");
  mentions(error_of([&] { model->attention(view_of(good), 0); }), "one item");
  mentions(error_of([&] { model->parameter("no.such"); }), "no.such");
  const Parameter& D = model->parameter("backbone.layers.0.mixer.D");
  mentions(error_of([&] { model->set(D, ParameterPart::kValue, std::vector<float>(3)); }),
           D.name.c_str());
  ModelConfig bad = tiny_config(BaseArch::kMamba2);
  bad.n_groups = 3;
  mentions(error_of([&] { Model(bad, make_test_backend(), 1); }), "n_groups");
}

}  // namespace
}  // namespace joint_recall
