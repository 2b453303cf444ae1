// The backend's loss, scores, optimiser and picks against plain fp64 loops.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "model/backend.hpp"
#include "model/error.hpp"
#include "model_backend_fixture.hpp"
#include "support/comparator.hpp"
#include "support/finite_difference.hpp"
#include "support/oracle_math.hpp"

namespace joint_recall {
namespace {

using hax_test::expect_close;
using hax_test::random_normal;

TEST_F(BackendTest, CrossEntropy) {
  Array logits = random_normal({70, 37}, 1, 0.0, 3.0);
  logits.at(2, 5) = logits.at(2, 9) = 50.0;  // a tie: the first wins
  std::vector<int32_t> label(70);
  for (size_t r = 0; r < label.size(); ++r) label[r] = static_cast<int32_t>(r * 7 % 37);
  std::vector<int32_t> prediction(70);
  std::vector<float> loss(70);
  const auto mean_loss = [&] {
    double sum = 0.0;
    for (int64_t r = 0; r < 70; ++r) {
      double total = 0.0;
      for (int64_t c = 0; c < 37; ++c) total += std::exp(logits.at(r, c));
      sum += std::log(total) - logits.at(r, label[static_cast<size_t>(r)]);
    }
    return sum / 70.0;
  };
  GappedMatrix untouched(logits), gradient(70, 37);
  backend_.cross_entropy(label.data(), nullptr, untouched, loss.data(), prediction.data(), {});
  EXPECT_TRUE(expect_close("logits", untouched.array(), logits, 1e-7));
  const float scale = 1.0f / 70.0f;
  backend_.cross_entropy(label.data(), &scale, untouched, loss.data(), prediction.data(), gradient);
  double sum = 0.0;
  for (const float value : loss) sum += double{value};
  EXPECT_NEAR(sum / 70.0, mean_loss(), 1e-6 * mean_loss());
  EXPECT_TRUE(hax_test::expect_gradient("logits", mean_loss, logits, gradient.array(),
                                        {.samples = 200, .tolerance = 1e-5}));
  EXPECT_EQ(prediction[2], 5);
  for (int64_t r = 0; r < 70; ++r) {
    const auto* row = &logits.data[static_cast<size_t>(r * 37)];
    EXPECT_EQ(prediction[static_cast<size_t>(r)], std::max_element(row, row + 37) - row);
  }
}

TEST_F(BackendTest, CrossEntropyOfPaddingIsNothing) {
  const Array logits = random_normal({3, 37}, 1);
  const int32_t label[] = {4, -1, 36};
  const float scale = 0.5f;
  float loss[3];
  int32_t prediction[3];
  GappedMatrix gradient(logits);
  backend_.cross_entropy(label, &scale, GappedMatrix(logits), loss, prediction, gradient);
  EXPECT_EQ(loss[1], 0.0f);
  EXPECT_GT(loss[0], 0.0f);
  const Array got = gradient.array();
  for (int64_t c = 0; c < 37; ++c) EXPECT_EQ(got.at(1, c), 0.0);
  EXPECT_LT(got.at(2, 36), 0.0);
}

// More items than a block has warps; some ask nothing, one asks more than a warp has lanes.
TEST_F(BackendTest, ScoresOfABatch) {
  std::vector<int32_t> offset = {0}, prediction, target;
  std::vector<float> loss;
  double want_loss = 0.0, want_accuracy = 0.0;
  int64_t asking = 0;
  for (int32_t item = 0; item < 21; ++item) {
    const int32_t asks = item == 5 ? 100 : item % 4;
    int32_t right = 0;
    for (int32_t j = 0; j < asks; ++j) {
      const bool hit = (item * 7 + j) % 3 == 0;
      right += hit;
      target.push_back(j);
      prediction.push_back(hit ? j : j + 1);
      loss.push_back(0.25f * static_cast<float>(j + item));
      want_loss += double{loss.back()};
    }
    offset.push_back(offset.back() + asks);
    if (asks == 0) continue;
    want_accuracy += static_cast<double>(right) / asks;
    ++asking;
  }
  BatchScores scores;
  backend_.score_batch(loss.data(), prediction.data(), target.data(), offset.data(), 21, &scores);
  EXPECT_NEAR(scores.loss, want_loss / static_cast<double>(loss.size()), 1e-12);
  EXPECT_NEAR(scores.accuracy, want_accuracy / static_cast<double>(asking), 1e-12);
  EXPECT_EQ(scores.items, asking);
}

// Two steps by hand: decoupled decay first, then the bias-corrected update.
TEST_F(BackendTest, AdamwAgainstTheFormula) {
  constexpr int64_t kCount = 5000;
  const Array start = random_normal({kCount}, 1), g1 = random_normal({kCount}, 2),
              g2 = random_normal({kCount}, 3);
  std::vector<float> value = to_floats(start), first(kCount, 0.0f), second(kCount, 0.0f);
  const AdamwArgs args{.lr = 0.002, .step = 1};
  backend_.adamw(args, kCount, to_floats(g1).data(), value.data(), first.data(), second.data());
  AdamwArgs next = args;
  next.step = 2;
  next.lr = 0.003;
  backend_.adamw(next, kCount, to_floats(g2).data(), value.data(), first.data(), second.data());

  Array want({kCount}), m({kCount}), v({kCount});
  for (int64_t i = 0; i < kCount; ++i) {
    double p = start.at(i);
    m.at(i) = 0.1 * g1.at(i);
    v.at(i) = 0.001 * g1.at(i) * g1.at(i);
    p -= 0.002 * 0.01 * p;
    p -= 0.002 * (m.at(i) / 0.1) / (std::sqrt(v.at(i) / 0.001) + 1e-8);
    m.at(i) = 0.9 * m.at(i) + 0.1 * g2.at(i);
    v.at(i) = 0.999 * v.at(i) + 0.001 * g2.at(i) * g2.at(i);
    p -= 0.003 * 0.01 * p;
    p -= 0.003 * (m.at(i) / (1.0 - 0.81)) / (std::sqrt(v.at(i) / (1.0 - 0.998001)) + 1e-8);
    want.at(i) = p;
  }
  EXPECT_TRUE(expect_close("value", to_array({kCount}, value), want, 1e-6));
  EXPECT_TRUE(expect_close("first moment", to_array({kCount}, first), m, 1e-6));
  EXPECT_TRUE(expect_close("second moment", to_array({kCount}, second), v, 1e-5));
}

TEST_F(BackendTest, Bf16RoundsToNearestEven) {
  const float values[] = {1.0f,        1.00390625f, 1.01171875f, -3.0f,  0.0f,
                          1.00390637f, INFINITY,    NAN,         3.4e38f};
  uint16_t bits[9];
  float back[9];
  const Tokens rounded(bits, 3, 3, 3, Element::kBf16);
  backend_.copy(compact(values, 3, 3), rounded);
  backend_.copy(rounded, compact(back, 3, 3));
  const float want[] = {1.0f, 1.0f, 1.015625f, -3.0f, 0.0f, 1.0078125f, INFINITY, NAN, INFINITY};
  for (int i = 0; i < 9; ++i) {
    if (std::isnan(want[i])) {
      EXPECT_TRUE(std::isnan(back[i]));
    } else {
      EXPECT_EQ(back[i], want[i]) << i;
    }
  }
}

TEST_F(BackendTest, PicksAreTheLargestNoise) {
  const float noise[] = {0.3f, 0.9f, 0.9f, 0.1f, 0.5f, 0.8f};
  const uint8_t mask[] = {1, 1, 1, 1, 0, 0};
  int32_t pick[8];
  backend_.top_positions(noise, nullptr, nullptr, 1, 1, 6, 4, pick);
  EXPECT_EQ(std::vector<int32_t>(pick, pick + 4), (std::vector<int32_t>{1, 2, 5, 4}));
  backend_.top_positions(noise, mask, nullptr, 1, 1, 6, 4, pick);
  EXPECT_EQ(std::vector<int32_t>(pick, pick + 4), (std::vector<int32_t>{1, 2, 0, 3}));
  backend_.top_positions(noise, mask, nullptr, 1, 1, 6, 5, pick);
  EXPECT_EQ(pick[4], 5) << "padding fills up a short sequence";
  const int32_t offset[] = {0, 2, 6};
  backend_.top_positions(noise, nullptr, offset, 2, 2, 6, 4, pick);
  EXPECT_EQ(std::vector<int32_t>(pick, pick + 8), (std::vector<int32_t>{1, 0, -1, -1, 0, 3, 2, 1}));
  backend_.top_positions(noise, nullptr, offset, 1, 2, 6, 4, pick);
  EXPECT_EQ(std::vector<int32_t>(pick, pick + 8),
            (std::vector<int32_t>{1, 0, -1, -1, -1, -1, -1, -1}));
}

// Every position is picked equally often, and none twice in a row.
TEST_F(BackendTest, PicksAreUniformWithoutReplacement) {
  constexpr int64_t kSequences = 4000, kLength = 20, kPicks = 6;
  std::vector<float> noise(kSequences * kLength);
  std::vector<int32_t> pick(kSequences * kPicks);
  backend_.random_uniform({3, RandomPurpose::kRankingNoise, 1, 2, 0}, kSequences * kLength,
                          noise.data());
  backend_.top_positions(noise.data(), nullptr, nullptr, kSequences, kSequences, kLength, kPicks,
                         pick.data());
  std::vector<int64_t> times(kLength, 0);
  for (int64_t s = 0; s < kSequences; ++s) {
    std::vector<int32_t> row(pick.begin() + s * kPicks, pick.begin() + (s + 1) * kPicks);
    std::sort(row.begin(), row.end());
    ASSERT_EQ(std::adjacent_find(row.begin(), row.end()), row.end());
    for (const int32_t position : row) ++times.at(static_cast<size_t>(position));
  }
  const double share = static_cast<double>(kPicks) / kLength;
  const double deviation = std::sqrt(kSequences * share * (1.0 - share));
  for (const int64_t count : times) {
    EXPECT_NEAR(static_cast<double>(count), kSequences * share, 5.0 * deviation);
  }
}

}  // namespace
}  // namespace joint_recall
