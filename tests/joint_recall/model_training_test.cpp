// Models learn, and their steps don't depend on what they shouldn't.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "model_items_fixture.hpp"
#include "model_mixer_fixture.hpp"
#include "support/comparator.hpp"

namespace joint_recall {
namespace {

class Training : public testing::TestWithParam<BaseAndPattern> {};

// From guessing among all 24 tokens (ln 24 = 3.2) to knowing at least that values follow (ln 4 = 1.4).
double train_to(const ModelConfig& config, int steps) {
  const auto model = make_model(config);
  double first = 0.0, last = 0.0;
  for (int step = 1; step <= steps; ++step) {
    const PackedBatch batch = pack(make_items(static_cast<unsigned>(step), 16));
    const StepResult result = model->train_step(view_of(batch), step, 0.01, 0.1);
    EXPECT_TRUE(std::isfinite(result.loss) && std::isfinite(result.gate_loss)) << step;
    EXPECT_EQ(result.items, 16);
    if (step == 1) first = result.loss;
    last = result.loss;
  }
  EXPECT_LT(last, 0.6 * first);
  return last;
}

TEST_P(Training, LossFalls) { train_to(tiny_config(GetParam().base, GetParam().sparse), 25); }

TEST_P(Training, LossFallsInBf16) {
  ModelConfig config = tiny_config(GetParam().base, GetParam().sparse);
  config.precision = Precision::kBf16;
  train_to(config, 25);
}

INSTANTIATE_TEST_SUITE_P(All, Training, testing::ValuesIn(all_models()),
                         [](const auto& param_info) { return name_of(param_info.param); });

TEST(ModelTraining, RankingLossFalls) {
  const auto model = make_model(tiny_config(BaseArch::kMamba2, "key_selection"));
  std::vector<double> gate_loss;
  for (int step = 1; step <= 60; ++step) {
    const PackedBatch batch = pack(make_items(static_cast<unsigned>(step), 16));
    gate_loss.push_back(model->train_step(view_of(batch), step, 0.01, 1.0).gate_loss);
  }
  EXPECT_LT(gate_loss.back(), 0.9 * gate_loss.front());
}

std::vector<float> all_values(const Model& model, ParameterPart part) {
  std::vector<float> all;
  for (const Parameter& parameter : model.parameters()) {
    if (!parameter.trainable && part != ParameterPart::kValue) continue;
    const std::vector<float> values = model.get(parameter, part);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

constexpr ParameterPart kSaved[] = {ParameterPart::kValue, ParameterPart::kFirstMoment,
                                    ParameterPart::kSecondMoment};

// What a checkpoint does: values and moments into a fresh model, the step number beside them.
TEST(ModelTraining, ResumedRunIsBitEqual) {
  for (const auto redraw : {HashRedraw::kCall, HashRedraw::kOnce}) {
    ModelConfig config = tiny_config(BaseArch::kMamba2, "sign_bin_lsh+key_selection");
    config.hash_redraw = redraw;
    const auto run = [](Model& model, int first, int last) {
      for (int step = first; step <= last; ++step) {
        const PackedBatch batch = pack(make_items(static_cast<unsigned>(step), 5));
        model.train_step(view_of(batch), step, 0.01, 0.1);
      }
    };
    const auto whole = make_model(config, 9), begun = make_model(config, 9);
    run(*whole, 1, 6);
    run(*begun, 1, 3);
    Model resumed(config, make_test_backend(), 9);
    for (const Parameter& parameter : begun->parameters()) {
      for (const ParameterPart part : kSaved) {
        if (!parameter.trainable && part != ParameterPart::kValue) continue;
        resumed.set(parameter, part, begun->get(parameter, part));
      }
    }
    run(resumed, 4, 6);
    for (const ParameterPart part : kSaved) {
      EXPECT_EQ(all_values(resumed, part), all_values(*whole, part));
    }
    const PackedBatch batch = pack(make_items(99, 5));
    EXPECT_EQ(resumed.evaluate(view_of(batch), 2).loss, whole->evaluate(view_of(batch), 2).loss);
    const auto other_seed = make_model(config, 10);
    EXPECT_NE(all_values(*other_seed, ParameterPart::kValue),
              all_values(*make_model(config, 9), ParameterPart::kValue));
  }
}

TEST(ModelTraining, AccumulatedGradientIsTheMeanOverMicroSteps) {
  const auto model = make_model(tiny_config(BaseArch::kMamba2, "sliding_window"));
  const std::vector<TestItem> items = make_items(3, 8);
  const PackedBatch all = pack(items);
  const StepResult whole = model->forward_backward(view_of(all), {.step = 1});
  const std::vector<float> want = all_values(*model, ParameterPart::kGradient);
  double loss = 0.0;
  for (int half = 0; half < 2; ++half) {
    const PackedBatch part = pack({items.begin() + 4 * half, items.begin() + 4 * half + 4});
    loss += model->forward_backward(view_of(part), {.step = 1, .index = half, .count = 2}).loss;
  }
  const std::vector<float> got = all_values(*model, ParameterPart::kGradient);
  EXPECT_NEAR(loss / 2.0, whole.loss, 1e-6 * whole.loss);
  const auto count = static_cast<int64_t>(want.size());
  EXPECT_TRUE(
      hax_test::expect_close("gradient", to_array({count}, got), to_array({count}, want), 1e-5));
}

TEST(ModelTraining, EveryMicroStepCarriesItsShareOfBothLosses) {
  const auto model = make_model(tiny_config(BaseArch::kMamba2, "key_selection"));
  const PackedBatch batch = pack(make_items(3, 8));
  model->forward_backward(view_of(batch), {.step = 1, .gate_loss_weight = 2.0});
  const std::vector<float> whole = all_values(*model, ParameterPart::kGradient);
  model->forward_backward(view_of(batch),
                          {.step = 1, .index = 0, .count = 4, .gate_loss_weight = 2.0});
  const std::vector<float> quarter = all_values(*model, ParameterPart::kGradient);
  const auto count = static_cast<int64_t>(whole.size());
  Array want = to_array({count}, whole);
  for (double& value : want.data) value /= 4.0;
  EXPECT_TRUE(hax_test::expect_close("gradient", to_array({count}, quarter), want, 1e-6));
}

// Padding may be seen by nothing here: not by window or dilated patterns, nor by hashing and scoring
// whose statistics are causal.
TEST(ModelTraining, PackedEqualsPadded) {
  std::vector<TestItem> items = make_items(1, 3, 1, 2);
  for (const TestItem& item : make_items(2, 3, 3, 2)) items.push_back(item);
  const PackedBatch packed = pack(items);
  const PaddedBatch padded = pad(items, 40);
  for (const auto& [base, sparse] : all_models()) {
    SCOPED_TRACE(name_of({base, sparse}));
    ModelConfig config = tiny_config(base, sparse);
    config.statistics = HashStatistics::kCausal;
    config.key_score_norm = KeyScoreNorm::kFeature;
    const auto model = make_model(config);
    const EvalResult from_packed = model->evaluate(view_of(packed), 1);
    const EvalResult from_padded = model->evaluate(view_of(padded), 1);
    EXPECT_NEAR(from_packed.loss, from_padded.loss, 1e-5 * from_padded.loss);
    EXPECT_EQ(from_packed.predictions, from_padded.predictions);
    EXPECT_EQ(from_packed.accuracy, from_padded.accuracy);
    EXPECT_EQ(from_packed.items, 6);
    if (sparse.ends_with("key_selection")) continue;  // ranks different picks
    model->forward_backward(view_of(packed), {.step = 1});
    const std::vector<float> packed_gradient = all_values(*model, ParameterPart::kGradient);
    model->forward_backward(view_of(padded), {.step = 1});
    const std::vector<float> padded_gradient = all_values(*model, ParameterPart::kGradient);
    const auto count = static_cast<int64_t>(packed_gradient.size());
    EXPECT_TRUE(hax_test::expect_close("gradient", to_array({count}, packed_gradient),
                                       to_array({count}, padded_gradient), 1e-5));
  }
}

TEST(ModelTraining, Bf16IsCloseToFp32AndNotTheSame) {
  const PackedBatch batch = pack(make_items(1, 8));
  for (const BaseArch base : {BaseArch::kMamba, BaseArch::kMamba2, BaseArch::kSamba}) {
    ModelConfig config = tiny_config(base, base == BaseArch::kSamba ? "none" : "sliding_window");
    const double exact = make_model(config)->evaluate(view_of(batch), 0).loss;
    config.precision = Precision::kBf16;
    const double rounded = make_model(config)->evaluate(view_of(batch), 0).loss;
    EXPECT_NE(exact, rounded);
    EXPECT_NEAR(exact, rounded, 0.01 * exact);
  }
}

TEST(ModelTraining, WorkspaceGrowsForLargerBatchesOnly) {
  const auto model = make_model(tiny_config(BaseArch::kMamba, "sign_bin_lsh+key_selection"));
  const PackedBatch small = pack(make_items(1, 4)), large = pack(make_items(2, 200));
  const auto train = [&](const PackedBatch& batch) {
    for (int step = 1; step <= 2; ++step) model->train_step(view_of(batch), step, 0.01, 0.1);
    return model->workspace_bytes();
  };
  const size_t for_small = train(small), for_large = train(large);
  EXPECT_GT(for_large, for_small);
  EXPECT_EQ(train(small), for_large);
  EXPECT_EQ(train(large), for_large);
}

TEST(ModelTraining, EmptyBatchesAreLegal) {
  const auto model = make_model(tiny_config(BaseArch::kMamba2, "sign_bin_lsh+key_selection"));
  const PackedBatch nothing = pack({});
  const StepResult result = model->train_step(view_of(nothing), 1, 0.01, 0.1);
  EXPECT_EQ(result.items, 0);
  EXPECT_EQ(result.loss, 0.0);
  PackedBatch unasked = pack(make_items(1, 2));
  unasked.asked = {{}, {}, {0, 0, 0}};
  EXPECT_EQ(model->evaluate(view_of(unasked), 0).items, 0);
}

}  // namespace
}  // namespace joint_recall
