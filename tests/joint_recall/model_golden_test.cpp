// Whole mixers against the recorded layers: eight patterns on two bases.
#include <gtest/gtest.h>

#include "model_mixer_fixture.hpp"
#include "support/comparator.hpp"

namespace joint_recall {
namespace {

using hax_test::expect_close;
using hax_test::Safetensors;

constexpr double kTolerance = 1e-4;

const Safetensors& golden_file(bool mamba2) {
  static const Safetensors mamba_file(hax_test::golden_path("golden_mixer_mamba.safetensors"));
  static const Safetensors mamba2_file(hax_test::golden_path("golden_mixer_mamba2.safetensors"));
  return mamba2 ? mamba2_file : mamba_file;
}

const Safetensors& file_of(const std::string& case_name) {
  return golden_file(case_name.starts_with("mamba2/"));
}

std::vector<std::string> all_cases() {
  std::vector<std::string> cases = hax_test::golden_layer_cases(golden_file(false));
  for (const std::string& name : hax_test::golden_layer_cases(golden_file(true))) {
    cases.push_back(name);
  }
  return cases;
}

// Rows whose selection is empty hold a fallback in the recorded outputs; both sides get 0 there.
Array without_rows(Array values, const Array& rows) {
  const int64_t width = values.numel() / rows.numel();
  for (int64_t r = 0; r < rows.numel(); ++r) {
    if (rows.data[static_cast<size_t>(r)] == 0.0) continue;
    for (int64_t c = 0; c < width; ++c) values.data[static_cast<size_t>(r * width + c)] = 0.0;
  }
  return values;
}

class GoldenMixer : public testing::TestWithParam<std::string> {
 protected:
  GoldenMixer()
      : file_(file_of(GetParam())),
        args_(hax_test::golden_layer_args(file_, GetParam())),
        empty_row_(load("empty_row")),
        run_(run_mixer(config_of(args_), args_, load("grad_out"),
                       hax_test::golden_gate_weight(file_, GetParam()))) {}

  Array load(const std::string& name) const { return file_.load(GetParam() + "/" + name); }

  const Safetensors& file_;
  hax_test::LayerArgs args_;
  Array empty_row_;
  MixerRun run_;
};

TEST_P(GoldenMixer, OutputAndGateLoss) {
  EXPECT_TRUE(expect_close("out", without_rows(run_.out, empty_row_),
                           without_rows(load("out"), empty_row_), kTolerance));
  // Absent where nothing is ranked.
  const Array recorded = file_.load_if_present(GetParam() + "/gate_loss");
  const double gate_loss = recorded.present() ? recorded.data.at(0) : 0.0;
  EXPECT_EQ(recorded.present(), GetParam().ends_with("key_selection"));
  EXPECT_NEAR(run_.gate_loss, gate_loss, kTolerance * std::abs(gate_loss));
}

TEST_P(GoldenMixer, EveryGradient) {
  EXPECT_TRUE(
      expect_close("d_hidden_states", run_.d_hidden_states, load("d_hidden_states"), kTolerance));
  for (const auto& [name, gradient] : run_.d_param) {
    const Array recorded = load("d_param." + name);
    if (name == "dx_proj_3.bias") {
      // Scores enter the loss as differences: the gradient is 0, and both sides hold rounding.
      EXPECT_NEAR(gradient.data.at(0), 0.0, 1e-6);
      EXPECT_NEAR(recorded.data.at(0), 0.0, 1e-6);
      continue;
    }
    EXPECT_TRUE(expect_close(name, gradient, recorded, kTolerance));
  }
}

TEST_P(GoldenMixer, SelectionsAndProbabilities) {
  const Array recorded = load("attention_probability");
  const int64_t B = recorded.size(0), L = recorded.size(1);
  Array probability(recorded.shape);
  int64_t differing = 0;
  ASSERT_EQ(static_cast<int64_t>(run_.pictures.size()), B);
  for (int64_t b = 0; b < B; ++b) {
    const LayerAttention& picture = run_.pictures[static_cast<size_t>(b)];
    for (int64_t i = 0; i < L; ++i) {
      if (empty_row_.at(b, i) != 0.0) {
        for (int64_t j = 0; j < L; ++j) {
          EXPECT_EQ(picture.patterns[static_cast<size_t>(i * L + j)], 0u) << b << " " << i;
        }
        continue;
      }
      for (int64_t j = 0; j < L; ++j) {
        const auto at = static_cast<size_t>(i * L + j);
        probability.at(b, i, j) = double{picture.probability[at]};
        differing += (picture.patterns[at] != 0) != (recorded.at(b, i, j) > 0.0);
      }
    }
  }
  EXPECT_EQ(differing, 0);
  EXPECT_TRUE(expect_close("attention_probability", probability, without_rows(recorded, empty_row_),
                           kTolerance));
}

INSTANTIATE_TEST_SUITE_P(All, GoldenMixer, testing::ValuesIn(all_cases()),
                         [](const auto& param_info) {
                           return hax_test::golden_test_name(param_info.param);
                         });

}  // namespace
}  // namespace joint_recall
