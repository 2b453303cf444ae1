#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "hash/hash_case.hpp"

namespace hax_test {
namespace {

struct RankingCase {
  int64_t batch = 2, length = 60, heads = 2, features = 8, picks = 12;
  double k_scale = 0.35;
  std::vector<int64_t> cu_seqlens = {};
  hax_data_type type = kFp32;
  hax_data_type index_type = kInt32;
  Layout layout = Layout::compact;
  double unused = 0.2;  // share of entries that are no picks
  uint64_t seed = 1;

  std::vector<Stretch> sequences() const { return stretches(batch, length, cu_seqlens); }
  std::vector<int64_t> pick_shape() const {
    return {static_cast<int64_t>(sequences().size()), heads, picks};
  }
  Array tokens(uint64_t offset) const {
    return round_to(random_normal({batch, length, heads, features}, seed + offset), type);
  }
  Array score() const { return round_to(random_normal({batch, length, heads}, seed + 2), kFp32); }
  // Distinct positions in random order, and -1 in between; row by row.
  std::vector<std::vector<int64_t>> rows() const {
    std::mt19937_64 engine(seed + 3);
    std::vector<std::vector<int64_t>> result;
    for (const Stretch& s : sequences()) {
      for (int64_t h = 0; h < heads; ++h) {
        std::vector<int64_t> positions(static_cast<size_t>(s.length));
        std::iota(positions.begin(), positions.end(), 0);
        std::shuffle(positions.begin(), positions.end(), engine);
        std::vector<int64_t> row;
        while (static_cast<int64_t>(row.size()) < picks) {
          const bool none = std::uniform_real_distribution<double>()(engine) < unused;
          row.push_back(none || positions.empty() ? -1 - static_cast<int64_t>(engine() % 9)
                                                  : positions.back());
          if (row.back() >= 0) positions.pop_back();
        }
        result.push_back(row);
      }
    }
    return result;
  }
  RankingLossArgs oracle_args() const {
    RankingLossArgs args;
    args.q = tokens(0);
    args.k = tokens(1);
    for (double& k : args.k.data) k *= static_cast<double>(static_cast<float>(k_scale));
    args.score = score();
    args.picks = rows();
    args.cu_seqlens = cu_seqlens;
    return args;
  }
};

std::string describe(const RankingCase& c) {
  return "B=" + std::to_string(c.batch) + " L=" + std::to_string(c.length) +
         " H=" + std::to_string(c.heads) + " N=" + std::to_string(c.features) +
         " M=" + std::to_string(c.picks) + " " + name_of(c.type) + " " + name_of(c.layout) +
         (c.cu_seqlens.empty() ? "" : " packed");
}

Array as_array(const std::vector<std::vector<int64_t>>& rows, const std::vector<int64_t>& shape) {
  Array array(shape);
  size_t i = 0;
  for (const std::vector<int64_t>& row : rows) {
    for (const int64_t pick : row) array.data[i++] = static_cast<double>(pick);
  }
  return array;
}

struct Loss {
  Argument loss, target;
};

Loss forward(const RankingCase& c, const Array& q_values, const Array& k_values,
             const Array& scores, const hax_context* context, bool with_target = true) {
  const Argument q = Argument::input(q_values, c.type, c.layout);
  const Argument k = Argument::input(k_values, c.type, c.layout);
  const Argument score = Argument::input(swap_last_two(scores), kFp32, c.layout);
  const Argument pick = Argument::input(as_array(c.rows(), c.pick_shape()), kInt32, c.layout);
  const Argument cu_seqlens = boundaries(c.cu_seqlens, c.index_type);
  Loss out{Argument::output({1}),
           with_target ? Argument::output(c.pick_shape(), kFp32, c.layout) : Argument()};
  hax_ranking_loss_forward_args args = {};
  args.q = q.arg();
  args.k = k.arg();
  args.score = score.arg();
  args.pick = pick.arg();
  args.cu_seqlens = cu_seqlens.arg();
  args.loss = out.loss.arg();
  args.target = out.target.arg();
  args.k_scale = static_cast<float>(c.k_scale);
  EXPECT_EQ(run(hax_ranking_loss_forward_workspace, hax_ranking_loss_forward, context, args),
            HAX_SUCCESS)
      << hax_last_error();
  EXPECT_TRUE(out.loss.sentinels_intact());
  EXPECT_TRUE(out.target.sentinels_intact());
  return out;
}

Loss forward(const RankingCase& c, const hax_context* context, bool with_target = true) {
  return forward(c, c.tokens(0), c.tokens(1), c.score(), context, with_target);
}

Argument backward(const RankingCase& c, const Array& score, const Array& target, double dloss,
                  const hax_context* context) {
  const Argument score_arg = Argument::input(swap_last_two(score), kFp32, c.layout);
  const Argument pick = Argument::input(as_array(c.rows(), c.pick_shape()), kInt32, c.layout);
  const Argument target_arg = Argument::input(target, kFp32, c.layout);
  const Argument cu_seqlens = boundaries(c.cu_seqlens, c.index_type);
  const Argument dloss_arg = Argument::input(Array({1}, dloss));
  const Argument dscore = Argument::output({c.batch, c.heads, c.length}, kFp32, c.layout);
  hax_ranking_loss_backward_args args = {};
  args.score = score_arg.arg();
  args.pick = pick.arg();
  args.target = target_arg.arg();
  args.cu_seqlens = cu_seqlens.arg();
  args.dloss = dloss_arg.arg();
  args.dscore = dscore.arg();
  EXPECT_EQ(run(hax_ranking_loss_backward_workspace, hax_ranking_loss_backward, context, args),
            HAX_SUCCESS)
      << hax_last_error();
  EXPECT_TRUE(dscore.sentinels_intact());
  return dscore;
}

Array oracle_targets(const RankingCase& c, const RankingLossArgs& args) {
  Array target(c.pick_shape());
  const std::vector<Stretch> sequences = c.sequences();
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (int64_t h = 0; h < c.heads; ++h) {
      for (int64_t m = 0; m < c.picks; ++m) {
        const int64_t pick = args.picks[s * static_cast<size_t>(c.heads) + static_cast<size_t>(h)]
                                       [static_cast<size_t>(m)];
        for (int64_t i = pick; pick >= 0 && i < sequences[s].length; ++i) {
          double product = 0.0;
          for (int64_t n = 0; n < c.features; ++n) {
            product += args.q.at(sequences[s].row, sequences[s].first + i, h, n) *
                       args.k.at(sequences[s].row, sequences[s].first + pick, h, n);
          }
          target.at(static_cast<int64_t>(s), h, m) += 1.0 / (1.0 + std::exp(-product));
        }
      }
    }
  }
  return target;
}

// The oracle averages over all rows, the operator over those with a pick.
double rows_per_row_with_picks(const RankingLossArgs& args) {
  double with_picks = 0.0;
  for (const std::vector<int64_t>& row : args.picks) {
    with_picks += std::any_of(row.begin(), row.end(), [](int64_t pick) { return pick >= 0; });
  }
  return with_picks > 0.0 ? static_cast<double>(args.picks.size()) / with_picks : 1.0;
}

constexpr double kTolerance = 2e-6;

void expect_close_to_oracle(const RankingCase& c, const hax_context* context) {
  SCOPED_TRACE(describe(c));
  const RankingLossArgs want = c.oracle_args();
  const double scale = rows_per_row_with_picks(want);
  const Loss got = forward(c, context);
  EXPECT_NEAR(got.loss.array().at(0), scale * oracle_ranking_loss(want), kTolerance);
  EXPECT_EQ(forward(c, context, false).loss.array().data, got.loss.array().data);
  EXPECT_TRUE(expect_close("target", got.target.array(), oracle_targets(c, want), kTolerance));
  const Array dscore = oracle_ranking_loss_backward(want, 1.7 * scale);
  EXPECT_TRUE(expect_close("dscore",
                           backward(c, c.score(), got.target.array(), 1.7, context).array(),
                           swap_last_two(round_to(dscore, kFp32)), kTolerance));
}

TEST(RankingLoss, HostileShapes) {
  const TestContext context;
  for (const int64_t length : {0, 1, 2, 5, 6, 7, 383, 384, 385, 800}) {
    expect_close_to_oracle({.length = length}, context);
  }
  for (const int64_t picks : {0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 200}) {
    expect_close_to_oracle({.length = 150, .picks = picks}, context);
  }
  for (const int64_t features : {1, 2, 7, 8, 9, 31, 32, 33, 256}) {
    expect_close_to_oracle({.features = features}, context);
  }
  expect_close_to_oracle({.batch = 0}, context);
  expect_close_to_oracle({.heads = 0}, context);
  expect_close_to_oracle({.k_scale = -2.0}, context);
}

TEST(RankingLoss, RowsWithoutPicksDoNotCount) {
  const TestContext context;
  expect_close_to_oracle({.batch = 6, .picks = 1, .unused = 0.5}, context);
  const RankingCase none{.unused = 1.0};
  const Loss loss = forward(none, context);
  EXPECT_EQ(loss.loss.array().at(0), 0.0);
  EXPECT_EQ(loss.target.array().data, std::vector<double>(2 * 2 * 12, 0.0));
  EXPECT_EQ(backward(none, none.score(), loss.target.array(), 1.0, context).array().data,
            std::vector<double>(2 * 2 * 60, 0.0));
}

TEST(RankingLoss, EveryTypeAndLayoutOnEveryCpuLevel) {
  for (const std::string& level : available_cpu_levels()) {
    SCOPED_TRACE(level);
    const TestContext context(2, level.c_str());
    for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
      for (const Layout layout : kLayouts) {
        expect_close_to_oracle(
            {.length = 90, .features = 13, .picks = 21, .type = type, .layout = layout}, context);
      }
    }
  }
}

TEST(RankingLoss, Packed) {
  const TestContext context;
  for (const hax_data_type index_type : {kInt32, kInt64}) {
    expect_close_to_oracle({.batch = 1,
                            .length = 1300,
                            .picks = 30,
                            .cu_seqlens = cut_up(1300),
                            .index_type = index_type},
                           context);
  }
  expect_close_to_oracle({.batch = 1, .length = 0, .cu_seqlens = {0}}, context);
  expect_close_to_oracle({.batch = 1, .length = 0, .cu_seqlens = {0, 0}}, context);
}

TEST(RankingLoss, ManySequences) {
  const std::vector<int64_t> cu_seqlens = many_sequences();
  expect_close_to_oracle({.batch = 1,
                          .length = cu_seqlens.back(),
                          .heads = 1,
                          .features = 2,
                          .picks = 2,
                          .cu_seqlens = cu_seqlens},
                         TestContext(2));
}

TEST(RankingLoss, SameBitsForEveryThreadCount) {
  const RankingCase c{.batch = 1, .length = 3000, .heads = 2, .picks = 150};
  const TestContext one(1);
  const Loss want = forward(c, one);
  const Array want_dscore = backward(c, c.score(), want.target.array(), 1.0, one).array();
  for (const int threads : {2, 3, 16}) {
    const TestContext several(threads);
    const Loss got = forward(c, several);
    EXPECT_EQ(got.loss.array().data, want.loss.array().data);
    EXPECT_EQ(got.target.array().data, want.target.array().data);
    EXPECT_EQ(backward(c, c.score(), got.target.array(), 1.0, several).array().data,
              want_dscore.data);
  }
}

// Tied targets want equal scores: the gradient pulls two such scores together. Here the only query that
// sees one pick and not the other gives it sigmoid(-200), which is 0.
TEST(RankingLoss, TiedTargets) {
  const TestContext context;
  const RankingCase c{.batch = 1,
                      .length = 2,
                      .heads = 1,
                      .features = 1,
                      .picks = 2,
                      .k_scale = 1.0,
                      .unused = 0.0};
  const Array score({1, 2, 1}, {3.0, 1.0});
  const Loss got =
      forward(c, Array({1, 2, 1, 1}, {-200.0, 0.0}), Array({1, 2, 1, 1}, 1.0), score, context);
  const Array target = got.target.array();
  EXPECT_EQ(target.data, (std::vector<double>{0.5, 0.5}));
  const double gap = 2.0;
  EXPECT_NEAR(got.loss.array().at(0), (std::log(2.0) + std::log1p(std::exp(gap)) - gap / 2.0) / 2.0,
              1e-6);
  const Array dscore = backward(c, score, target, 1.0, context).array();
  const double pull = 2.0 / 4.0 * (1.0 / (1.0 + std::exp(-gap)) - 0.5);
  EXPECT_NEAR(dscore.data[0], pull, 1e-7);
  EXPECT_NEAR(dscore.data[1], -pull, 1e-7);
}

TEST(RankingLoss, LargeScoresNeitherOverflowNorLosePrecision) {
  const TestContext context;
  RankingCase c{.batch = 1, .length = 3, .heads = 1, .picks = 3, .unused = 0.0};
  const Array score({1, 3, 1}, {1e30, -1e30, 0.0});
  const std::vector<int64_t> row = c.rows()[0];
  Array target({1, 1, 3});
  for (size_t m = 0; m < 3; ++m) target.data[m] = row[m] == 0 ? 3.0 : row[m] == 1 ? 1.0 : 2.0;
  // In the wanted order already: no gradient is left.
  EXPECT_EQ(backward(c, score, target, 1.0, context).array().data, std::vector<double>(3, 0.0));
  for (double& t : target.data) t = -t;
  const Array reversed = backward(c, score, target, 1.0, context).array();
  EXPECT_NEAR(reversed.data[0], 4.0 / 9.0, 1e-7);
  EXPECT_NEAR(reversed.data[1], -4.0 / 9.0, 1e-7);
  EXPECT_NEAR(reversed.data[2], 0.0, 1e-7);
}

TEST(RankingLoss, RejectsPicksOutsideTheirSequence) {
  const TestContext context;
  const Argument q = Argument::input(Array({1, 6, 1, 2})),
                 score = Argument::input(Array({1, 1, 6}));
  const Argument cu_seqlens = Argument::indices({0, 2, 6});
  const Argument loss = Argument::output({1}), dscore = Argument::output({1, 1, 6});
  const Argument pick = Argument::input(Array({2, 1, 2}, {0, 2, 3, -7}), kInt32);
  const Argument target = Argument::input(Array({2, 1, 2})), dloss = Argument::input(Array({1}));
  hax_ranking_loss_forward_args args = {};
  args.q = args.k = q.arg();
  args.score = score.arg();
  args.pick = pick.arg();
  args.cu_seqlens = cu_seqlens.arg();
  args.loss = loss.arg();
  args.k_scale = 1.0f;
  // On CUDA the content of picks is the caller's duty: such ones count as unused.
  const hax_status expected = tests_use_cuda() ? HAX_SUCCESS : HAX_ERROR_INVALID_ARGUMENT;
  EXPECT_EQ(run(hax_ranking_loss_forward_workspace, hax_ranking_loss_forward, context, args),
            expected);
  if (!tests_use_cuda()) {
    EXPECT_EQ(
        std::string(hax_last_error()),
        "hax_ranking_loss_forward: pick[0, 0, 1]: expected a position in a sequence of 2 tokens, "
        "or a negative number for none, got 2");
  }
  hax_ranking_loss_backward_args back = {};
  back.score = score.arg();
  back.pick = pick.arg();
  back.target = target.arg();
  back.cu_seqlens = cu_seqlens.arg();
  back.dloss = dloss.arg();
  back.dscore = dscore.arg();
  EXPECT_EQ(run(hax_ranking_loss_backward_workspace, hax_ranking_loss_backward, context, back),
            expected);
  EXPECT_TRUE(tests_use_cuda() || (loss.untouched() && dscore.untouched()));
  args.k_scale = 0.0f;
  EXPECT_EQ(run(hax_ranking_loss_forward_workspace, hax_ranking_loss_forward, context, args),
            HAX_ERROR_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace hax_test
