#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "comparator.hpp"
#include "finite_difference.hpp"
#include "oracle_hash.hpp"

// Hash, score and selection oracles: worked examples, causality, packing, difference quotients.
namespace hax_test {
namespace {

TEST(LshOracle, CodesOfAWorkedExample) {
  // Mean 2, so centred -1, 0, 1; norm sqrt(2). Bits: sign of x, sign of -x; 0 isn't positive.
  const Array x({1, 3, 1, 1}, std::vector<double>{1.0, 2.0, 3.0});
  const Array R({1, 2}, std::vector<double>{1.0, -1.0});
  const LshHash hash = oracle_lsh_hash(x, R, LshStatistics::kSequence);
  EXPECT_EQ(hash.codes, (std::vector<uint64_t>{2, 0, 1}));
  EXPECT_NEAR(hash.projection.at(0, 2, 0, 0), 1.0 / std::sqrt(2.0), 1e-15);
  EXPECT_EQ(oracle_lsh_hash(x, R, LshStatistics::kNone).codes, (std::vector<uint64_t>{1, 1, 1}));
  // Up to each position: 1 - 1 = 0; 2 - 1.5 > 0; 3 - 2 > 0.
  EXPECT_EQ(oracle_lsh_hash(x, R, LshStatistics::kCausal).codes, (std::vector<uint64_t>{0, 1, 1}));
}

TEST(LshOracle, CausalStatisticsEndAtTheSequenceStatistics) {
  const Array x = random_normal({2, 9, 2, 5}, 1), R = random_normal({5, 7}, 2);
  const Array causal = oracle_lsh_hash(x, R, LshStatistics::kCausal).projection;
  const Array sequence = oracle_lsh_hash(x, R, LshStatistics::kSequence).projection;
  EXPECT_TRUE(expect_close("last token", slice_axis(causal, 1, 8, 9), slice_axis(sequence, 1, 8, 9),
                           1e-14));
  Array later = x;
  for (int64_t n = 0; n < 5; ++n) later.at(0, 8, 0, n) += 3.0;
  EXPECT_TRUE(expect_close(
      "prefix", slice_axis(oracle_lsh_hash(later, R, LshStatistics::kCausal).projection, 1, 0, 8),
      slice_axis(causal, 1, 0, 8), 0.0));
}

TEST(LshOracle, PackedEqualsSeparate) {
  const Array x = random_normal({1, 10, 2, 4}, 3), R = random_normal({4, 6}, 4);
  const std::vector<int64_t> cu = {0, 4, 4, 10};
  for (LshStatistics statistics :
       {LshStatistics::kNone, LshStatistics::kSequence, LshStatistics::kCausal}) {
    const Array packed = oracle_lsh_hash(x, R, statistics, cu).projection;
    for (size_t s = 0; s + 1 < cu.size(); ++s) {
      const Array alone =
          oracle_lsh_hash(slice_axis(x, 1, cu[s], cu[s + 1]), R, statistics).projection;
      EXPECT_TRUE(expect_close("projection", slice_axis(packed, 1, cu[s], cu[s + 1]), alone, 0.0));
    }
  }
}

TEST(LshOracle, CandidatesAreTheMostRecentKeysOfEqualCode) {
  const std::vector<uint64_t> codes_k = {1, 1, 2, 1, 1}, codes_q = {1, 2, 2, 2, 1};
  const auto candidates = oracle_lsh_candidates(codes_q, codes_k, 2);
  const std::vector<std::vector<int64_t>> want = {{0}, {}, {2}, {2}, {3, 4}};
  EXPECT_EQ(candidates, want);
}

TEST(KeySelectOracle, WorkedExamples) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  using Times = std::vector<int64_t>;
  EXPECT_EQ(oracle_key_select({1, 2, 3}, 1), (Times{1, 2, 3}));
  EXPECT_EQ(oracle_key_select({3, 2, 1}, 1), (Times{3, 1, 2}));  // keys 1 and 2 never enter
  EXPECT_EQ(oracle_key_select({1, 1, 1, 1}, 2), (Times{4, 4, 2, 3}));
  EXPECT_EQ(oracle_key_select({kNan, 1, kNan, 0}, 2), (Times{3, 4, 2, 4}));
  EXPECT_EQ(oracle_key_select({1, 3, 2, 4}, 2), (Times{2, 4, 3, 4}));
  EXPECT_EQ(oracle_key_select({5, 6}, 10), (Times{2, 2}));
  EXPECT_EQ(oracle_key_select({}, 3), Times{});
}

TEST(KeySelectOracle, AttendedKeysAreTheLargestOfEveryPrefix) {
  std::vector<double> score = random_normal({40}, 1).data;
  for (double& value : score) value = std::round(2.0 * value);  // many ties
  const int64_t budget = 6;
  const std::vector<int64_t> eviction = oracle_key_select(score, budget);
  for (int64_t i = 0; i < 40; ++i) {
    std::vector<int64_t> ranked(static_cast<size_t>(i + 1)), attended;
    std::iota(ranked.begin(), ranked.end(), 0);
    std::stable_sort(ranked.begin(), ranked.end(), [&](int64_t a, int64_t b) {
      return score[static_cast<size_t>(a)] > score[static_cast<size_t>(b)];
    });
    ranked.resize(std::min(ranked.size(), static_cast<size_t>(budget)));
    std::sort(ranked.begin(), ranked.end());
    for (int64_t j = 0; j <= i; ++j) {
      if (i < eviction[static_cast<size_t>(j)]) attended.push_back(j);
    }
    EXPECT_EQ(attended, ranked) << "query " << i;
  }
}

KeyScoreArgs score_problem(QueryNormalization normalization, std::vector<int64_t> cu_seqlens) {
  KeyScoreArgs args;
  args.q = random_normal({1, 9, 2, 3}, 1);
  args.k = random_normal({1, 9, 2, 3}, 2);
  args.w1 = random_normal({6, 6}, 3);
  args.b1 = random_normal({6}, 4);
  args.w2 = random_normal({6, 6}, 5);
  args.b2 = random_normal({6}, 6);
  args.w3 = random_normal({1, 6}, 7);
  args.b3 = random_normal({1}, 8);
  args.normalization = normalization;
  args.cu_seqlens = std::move(cu_seqlens);
  return args;
}

TEST(KeyScoreOracle, SummedQueryHasUnitNorm) {
  const Array by_feature = oracle_summed_query(score_problem(QueryNormalization::kFeature, {}));
  const Array by_sequence = oracle_summed_query(score_problem(QueryNormalization::kSequence, {}));
  for (int64_t h = 0; h < 2; ++h) {
    for (int64_t t = 0; t < 9; ++t) {
      double squares = 0.0;
      for (int64_t n = 0; n < 3; ++n) squares += std::pow(by_feature.at(0, t, h, n), 2);
      EXPECT_NEAR(squares, 1.0, 1e-14);
    }
    for (int64_t n = 0; n < 3; ++n) {
      double squares = 0.0;
      for (int64_t t = 0; t < 9; ++t) squares += std::pow(by_sequence.at(0, t, h, n), 2);
      EXPECT_NEAR(squares, 1.0, 1e-14);
    }
  }
}

TEST(KeyScoreOracle, GradientsAndPacking) {
  for (QueryNormalization normalization :
       {QueryNormalization::kFeature, QueryNormalization::kSequence}) {
    KeyScoreArgs args = score_problem(normalization, {0, 4, 4, 9});
    const Array dscore = random_normal({1, 9, 2}, 9);
    auto loss = [&] { return dot(oracle_key_score(args), dscore); };
    const KeyScoreGrads grads = oracle_key_score_backward(args, dscore);
    EXPECT_TRUE(expect_gradient("dw1", loss, args.w1, grads.dw1));
    EXPECT_TRUE(expect_gradient("db1", loss, args.b1, grads.db1));
    EXPECT_TRUE(expect_gradient("dw2", loss, args.w2, grads.dw2));
    EXPECT_TRUE(expect_gradient("db2", loss, args.b2, grads.db2));
    EXPECT_TRUE(expect_gradient("dw3", loss, args.w3, grads.dw3));
    EXPECT_TRUE(expect_gradient("db3", loss, args.b3, grads.db3));

    KeyScoreArgs tail = args;
    tail.q = slice_axis(args.q, 1, 4, 9);
    tail.k = slice_axis(args.k, 1, 4, 9);
    tail.cu_seqlens.clear();
    EXPECT_TRUE(expect_close("packed", slice_axis(oracle_key_score(args), 1, 4, 9),
                             oracle_key_score(tail), 0.0));
  }
}

RankingLossArgs ranking_problem() {
  RankingLossArgs args;
  args.q = random_normal({1, 9, 2, 3}, 1);
  args.k = random_normal({1, 9, 2, 3}, 2);
  args.score = random_normal({1, 9, 2}, 3);
  args.picks = {{0, 3, 1}, {2, -1, 0}, {4, 0, 2}, {-1, -1, -1}};
  args.cu_seqlens = {0, 4, 9};
  return args;
}

TEST(RankingLossOracle, Gradient) {
  RankingLossArgs args = ranking_problem();
  auto loss = [&] { return 1.7 * oracle_ranking_loss(args); };
  const FiniteDifferenceOptions every_coordinate{.samples = 100, .step = 1e-3};
  EXPECT_TRUE(expect_gradient("dscore", loss, args.score, oracle_ranking_loss_backward(args, 1.7),
                              every_coordinate));
}

TEST(RankingLossOracle, OnePickCostsLogTwoAndWrongOrderCostsMore) {
  RankingLossArgs args = ranking_problem();
  args.picks = {{1}, {1}, {1}, {1}};
  EXPECT_NEAR(oracle_ranking_loss(args), std::log(2.0), 1e-15);
  // q = 0 makes t_j the number of later queries over 2: earlier keys should score higher.
  args.q = zeros_like(args.q);
  args.picks = {{0, 1}, {0, 1}, {0, 1}, {0, 1}};
  for (int64_t t = 0; t < 9; ++t) {
    for (int64_t h = 0; h < 2; ++h) args.score.at(0, t, h) = -static_cast<double>(t);
  }
  const double right = oracle_ranking_loss(args);
  for (double& value : args.score.data) value = -value;
  EXPECT_NEAR(right, (std::log(2.0) + std::log1p(std::exp(-1.0))) / 2.0, 1e-15);
  EXPECT_NEAR(oracle_ranking_loss(args), (std::log(2.0) + std::log1p(std::exp(1.0))) / 2.0, 1e-15);
}

TEST(RankingLossOracle, TiedAttentionWantsEqualScores) {
  // Query 0 gives key 0 nothing and all others give every key 1/2, so t_0 = t_1 = 1.
  RankingLossArgs args;
  args.q = Array({1, 3, 1, 1}, std::vector<double>{1.0, 0.0, 0.0});
  args.k = Array({1, 3, 1, 1}, std::vector<double>{-1e4, 2.0, 3.0});
  args.score = Array({1, 3, 1}, std::vector<double>{2.0, 0.5, 0.0});
  args.picks = {{0, 1}};
  const double want =
      (2.0 * std::log(2.0) + std::log1p(std::exp(-1.5)) + std::log1p(std::exp(1.5))) / 4.0;
  EXPECT_NEAR(oracle_ranking_loss(args), want, 1e-15);
  args.score.at(0, 0, 0) = 0.5;
  EXPECT_EQ(oracle_ranking_loss_backward(args, 1.0).data, (std::vector<double>{0.0, 0.0, 0.0}));
}

}  // namespace
}  // namespace hax_test
