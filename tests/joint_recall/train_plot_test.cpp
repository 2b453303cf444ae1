#include <gtest/gtest.h>

#include "dataset_fixture.hpp"
#include "train/plot_attention.hpp"
#include "train/plot_axis.hpp"
#include "train/plot_curves.hpp"
#include "train/progress_bar.hpp"
#include "train/report.hpp"
#include "train/svg.hpp"

namespace joint_recall {
namespace {

// Every element is closed, and no coordinate is nan or inf.
void expect_sound(const std::string& svg) {
  EXPECT_TRUE(svg.starts_with("<svg ")) << svg.substr(0, 40);
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  std::vector<std::string> open;
  for (size_t at = svg.find('<'); at != std::string::npos; at = svg.find('<', at + 1)) {
    const size_t end = svg.find('>', at);
    ASSERT_NE(end, std::string::npos);
    if (svg[end - 1] == '/') continue;
    const size_t name_at = svg[at + 1] == '/' ? at + 2 : at + 1;
    const std::string name = svg.substr(name_at, svg.find_first_of(" >", name_at) - name_at);
    if (svg[at + 1] != '/') {
      open.push_back(name);
    } else {
      ASSERT_FALSE(open.empty());
      EXPECT_EQ(open.back(), name);
      open.pop_back();
    }
  }
  EXPECT_TRUE(open.empty());
}

TEST(TrainPlot, TicksAreRound) {
  EXPECT_EQ(round_ticks(0, 100, 5), (std::vector<double>{0, 20, 40, 60, 80, 100}));
  EXPECT_EQ(round_ticks(0, 5.13, 5), (std::vector<double>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(round_ticks(0.1, 0.9, 2), (std::vector<double>{0.5}));
  EXPECT_EQ(round_ticks(3, 3, 5), (std::vector<double>{3}));
  EXPECT_EQ(round_ticks(0, 400000, 8).size(), 9u);
  EXPECT_EQ(tick_text(0.25), "0.25");
  EXPECT_EQ(tick_text(9000), "9000");
  EXPECT_EQ(tick_text(400000), "400,000");
}

TEST(TrainPlot, CurvesOfAnyLength) {
  for (const int64_t steps : {0, 1, 5, 5000}) {
    std::vector<MetricsRecord> records;
    for (int64_t step = 1; step <= steps; ++step) {
      records.push_back({.step = step, .loss = 3.0 / static_cast<double>(step), .accuracy = 0.5});
      if (step % 5 == 0)
        records.push_back({.step = step, .validation = true, .loss = 2.0, .accuracy = 1.0});
    }
    const std::string svg = curves_svg(records, {.title = "a < b & \"c\"",
                                                 .chance = 0.125,
                                                 .warmup_step = 2,
                                                 .best_step = steps,
                                                 .best_accuracy = 1.0});
    expect_sound(svg);
    EXPECT_LT(svg.size(), 100000u);
    EXPECT_TRUE(contains(svg, "a &lt; b &amp; &quot;c&quot;"));
    EXPECT_TRUE(contains(svg, "chance 12.5 %"));
  }
}

TEST_F(DatasetTest, AttentionPictureHasAPanelPairForEachLayer) {
  const Dataset dataset = create_dataset(folder_, fixed_size_args(2, 3, 4, 1, 1)).dataset;
  const Item item = dataset.test[0];
  const int64_t length = item.size() - 1;
  LayerAttention layer{
      .layer = 1, .num_heads = 2, .length = length, .patterns = {}, .probability = {}};
  layer.patterns.assign(static_cast<size_t>(2 * length * length), 0u);
  layer.probability.assign(layer.patterns.size(), 0.0f);
  // Query 5 attends keys 2 and 3 with its first head by LSH, and 3 with its second by key selection.
  const auto at = [&](int64_t head, int64_t i, int64_t j) {
    return static_cast<size_t>((head * length + i) * length + j);
  };
  layer.patterns[at(0, 5, 2)] = layer.patterns[at(0, 5, 3)] = HAX_PATTERN_LSH;
  layer.patterns[at(1, 5, 3)] = HAX_PATTERN_KEY_SELECTION;
  layer.probability[at(0, 5, 2)] = 1.0f;
  const std::string svg = attention_svg({layer, layer}, item, dataset.vocabulary(), "title");
  expect_sound(svg);
  EXPECT_TRUE(contains(svg, "d=\"M2,5h1v1h-1z\""));  // LSH alone, and the weight
  EXPECT_TRUE(contains(svg, "d=\"M3,5h1v1h-1z\""));  // both
  EXPECT_TRUE(contains(svg, "sign_bin_lsh and key_selection"));
  EXPECT_TRUE(contains(svg, "mean of 2 heads"));
}

TEST(TrainReport, Numbers) {
  EXPECT_EQ(percent(0.98749), "98.7 %");
  EXPECT_EQ(percent(1.0), "100.0 %");
  EXPECT_EQ(grouped(1440000), "1,440,000");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(-1000), "-1,000");
  EXPECT_EQ(shell_quoted("outputs/a+b_0.1"), "outputs/a+b_0.1");
  EXPECT_EQ(shell_quoted("it's here"), "'it'\\''s here'");
  EXPECT_EQ(duration_text(7.4), "0:07");
  EXPECT_EQ(duration_text(3725), "1:02:05");
}

TEST(TrainProgressBar, ShowsWhatIsDoneAndClearsItself) {
  ::testing::internal::CaptureStderr();
  {
    ProgressBar bar("step", 10, 0, true);
    bar.update(5, "loss 1.5");
    bar.update(10);
  }
  const std::string shown = ::testing::internal::GetCapturedStderr();
  EXPECT_TRUE(contains(shown, "step 5/10 ["));
  EXPECT_TRUE(contains(shown, " 50%  loss 1.5  left 0:00"));
  EXPECT_TRUE(contains(shown, "100%"));
  EXPECT_TRUE(shown.ends_with("\r\x1b[K"));
  ::testing::internal::CaptureStderr();
  ProgressBar("step", 10, 0, false).update(5);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace joint_recall
