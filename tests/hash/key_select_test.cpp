#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>
#include <random>
#include <set>

#include "hash/hash_case.hpp"

namespace hax_test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

struct SelectCase {
  int64_t batch = 1, heads = 1, length = 0;
  int64_t budget = 4;
  std::vector<int64_t> cu_seqlens = {};
  hax_data_type index_type = kInt32;
  Layout layout = Layout::compact;
};

Argument select(const SelectCase& c, const Array& score, const hax_context* context) {
  const Argument score_arg = Argument::input(score, kFp32, c.layout);
  const Argument cu_seqlens = boundaries(c.cu_seqlens, c.index_type);
  const Argument eviction = Argument::output(score.shape, kInt32, c.layout);
  hax_key_select_forward_args args = {};
  args.score = score_arg.arg();
  args.cu_seqlens = cu_seqlens.arg();
  args.eviction = eviction.arg();
  args.budget = static_cast<int32_t>(c.budget);
  EXPECT_EQ(run(hax_key_select_forward_workspace, hax_key_select_forward, context, args),
            HAX_SUCCESS)
      << hax_last_error();
  EXPECT_TRUE(eviction.sentinels_intact());
  return eviction;
}

// The same as oracle_key_select in less than quadratic time.
std::vector<int64_t> evictions_by_set(const std::vector<double>& score, int64_t budget) {
  const auto better = [&](int64_t a, int64_t b) {
    const double x = score[static_cast<size_t>(a)], y = score[static_cast<size_t>(b)];
    if (std::isnan(x) || std::isnan(y)) {
      return std::isnan(x) != std::isnan(y) ? std::isnan(y) : a < b;
    }
    return x != y ? x > y : a < b;
  };
  std::set<int64_t, decltype(better)> kept(better);
  const auto length = static_cast<int64_t>(score.size());
  std::vector<int64_t> eviction(score.size(), length);
  for (int64_t j = 0; j < length; ++j) {
    kept.insert(j);
    if (static_cast<int64_t>(kept.size()) <= budget) continue;
    const auto worst = std::prev(kept.end());
    eviction[static_cast<size_t>(*worst)] = j;
    kept.erase(worst);
  }
  return eviction;
}

void expect_selection_matches(const SelectCase& c, const Array& score, const hax_context* context) {
  const std::vector<int64_t> eviction = select(c, score, context).integers();
  for (const Stretch& s : stretches(c.batch, c.length, c.cu_seqlens)) {
    for (int64_t h = 0; h < c.heads; ++h) {
      const std::vector<double> row = values_of(score.data, c.heads, c.length, s, h);
      const std::vector<int64_t> got = values_of(eviction, c.heads, c.length, s, h);
      const std::vector<int64_t> want =
          s.length <= 200 ? oracle_key_select(row, c.budget) : evictions_by_set(row, c.budget);
      for (size_t j = 0; j < row.size(); ++j) {
        ASSERT_EQ(got[j], want[j]) << "key " << j << ", L=" << s.length << " budget=" << c.budget
                                   << " head " << h << " score " << row[j];
      }
    }
  }
}

// Scores of one sequence that stress the order in which keys come and go.
struct Family {
  const char* name;
  double (*score)(int64_t j, std::mt19937_64& engine);
};

double normal(std::mt19937_64& engine) { return std::normal_distribution<double>()(engine); }

constexpr Family kFamilies[] = {
    {"random", [](int64_t, std::mt19937_64& e) { return normal(e); }},
    {"ascending", [](int64_t j, std::mt19937_64&) { return static_cast<double>(j); }},
    {"descending", [](int64_t j, std::mt19937_64&) { return static_cast<double>(-j); }},
    {"constant", [](int64_t, std::mt19937_64&) { return 0.25; }},
    {"sawtooth", [](int64_t j, std::mt19937_64&) { return static_cast<double>(j % 7); }},
    {"reverse sawtooth", [](int64_t j, std::mt19937_64&) { return static_cast<double>(-(j % 9)); }},
    {"few values", [](int64_t, std::mt19937_64& e) { return static_cast<double>(e() % 3) - 1.0; }},
    {"all nan", [](int64_t, std::mt19937_64&) { return kNan; }},
    {"some nan", [](int64_t, std::mt19937_64& e) { return e() % 3 ? normal(e) : kNan; }},
    {"nan first", [](int64_t j, std::mt19937_64& e) { return j < 9 ? -kNan : normal(e); }},
    {"infinities",
     [](int64_t, std::mt19937_64& e) {
       const double values[] = {kInf, -kInf, kNan, 0.0, 1.0};
       return values[e() % 5];
     }},
    {"signed zeros", [](int64_t, std::mt19937_64& e) { return e() % 2 ? 0.0 : -0.0; }},
    {"extremes",
     [](int64_t, std::mt19937_64& e) {
       const double values[] = {0x1.fffffep127, -0x1.fffffep127, 0x1p-149, -0x1p-149, 0.0};
       return values[e() % 5];
     }},
};

Array scores(const Family& family, const SelectCase& c) {
  std::mt19937_64 engine(7);
  Array score({c.batch, c.heads, c.length});
  for (int64_t i = 0; i < score.numel(); ++i) {
    score.data[static_cast<size_t>(i)] = family.score(i % c.length, engine);
  }
  return round_to(score, kFp32);
}

TEST(KeySelect, EveryFamilyOfScores) {
  const TestContext context;
  for (const Family& family : kFamilies) {
    SCOPED_TRACE(family.name);
    for (const int64_t length : {1, 2, 3, 17, 120}) {
      for (const int64_t budget : {1, 2, 3, 8, 16, 17, 119, 120, 121, 1 << 30}) {
        const SelectCase c{.length = length, .budget = budget};
        expect_selection_matches(c, scores(family, c), context);
      }
    }
  }
}

// Around and over several chunks of the CUDA kernels, for every size of their lists.
TEST(KeySelect, LongSequences) {
  const TestContext context;
  for (const Family& family : kFamilies) {
    SCOPED_TRACE(family.name);
    for (const int64_t length : {4095, 4096, 4097, 8193, 30000}) {
      for (const int64_t budget : {1, 31, 32, 33, 64, 100, 256, 257, 700}) {
        if (length != 30000 && budget != 32 && budget != 257) continue;
        const SelectCase c{.length = length, .budget = budget};
        expect_selection_matches(c, scores(family, c), context);
      }
    }
  }
  // Chunks whose best keys all lie with few threads.
  for (const int64_t period : {256, 512, 4096}) {
    const SelectCase c{.length = 30000, .budget = 64};
    Array score({1, 1, c.length});
    for (int64_t j = 0; j < c.length; ++j) {
      score.data[static_cast<size_t>(j)] = j % period < 3 ? static_cast<double>(1000 + j % 977) : 0;
    }
    expect_selection_matches(c, score, context);
  }
  // More chunks than one round of their scan takes.
  const SelectCase c{.heads = 2, .length = 300000, .budget = 40};
  expect_selection_matches(c, scores(kFamilies[0], c), context);
  expect_selection_matches(c, scores(kFamilies[1], c), context);
}

TEST(KeySelect, LongPackedSequences) {
  const TestContext context;
  for (const int64_t budget : {20, 64, 300}) {
    const SelectCase c{.heads = 2,
                       .length = 40000,
                       .budget = budget,
                       .cu_seqlens = {0, 10, 4106, 4106, 12299, 12299, 39999, 40000}};
    expect_selection_matches(c, scores(kFamilies[0], c), context);
  }
}

TEST(KeySelect, TheFasterOracleAgrees) {
  for (const Family& family : kFamilies) {
    const SelectCase c{.length = 150};
    for (const int64_t budget : {1, 5, 149, 150}) {
      const std::vector<double> row = scores(family, c).data;
      EXPECT_EQ(evictions_by_set(row, budget), oracle_key_select(row, budget)) << family.name;
    }
  }
}

TEST(KeySelect, EmptyTensors) {
  const TestContext context;
  for (const SelectCase& c :
       {SelectCase{.batch = 2, .heads = 3}, SelectCase{.batch = 0, .length = 5},
        SelectCase{.heads = 0, .length = 5}, SelectCase{.cu_seqlens = {0}},
        SelectCase{.cu_seqlens = {0, 0}}}) {
    expect_selection_matches(c, Array({c.batch, c.heads, c.length}), context);
  }
}

TEST(KeySelect, HeadsLayoutsAndThreads) {
  for (const int threads : {1, 2, 7}) {
    const TestContext context(threads);
    for (const Layout layout : kLayouts) {
      const SelectCase c{.batch = 3, .heads = 5, .length = 77, .budget = 6, .layout = layout};
      expect_selection_matches(c, scores(kFamilies[0], c), context);
    }
  }
}

TEST(KeySelect, Packed) {
  const TestContext context;
  for (const hax_data_type index_type : {kInt32, kInt64}) {
    for (const int64_t budget : {1, 5, 1000}) {
      const SelectCase c{.heads = 2,
                         .length = 200,
                         .budget = budget,
                         .cu_seqlens = cut_up(200),
                         .index_type = index_type};
      expect_selection_matches(c, scores(kFamilies[0], c), context);
    }
  }
}

TEST(KeySelect, ManySequencesAndManyHeads) {
  const TestContext context(2);
  const std::vector<int64_t> cu_seqlens = many_sequences();
  const SelectCase packed{.length = cu_seqlens.back(), .budget = 2, .cu_seqlens = cu_seqlens};
  expect_selection_matches(packed, scores(kFamilies[0], packed), context);
  const SelectCase heads{.heads = 70000, .length = 3, .budget = 2};
  expect_selection_matches(heads, scores(kFamilies[0], heads), context);
}

TEST(KeySelect, RejectsABudgetBelowOne) {
  const TestContext context;
  const Argument score = Argument::input(Array({1, 1, 3}));
  const Argument eviction = Argument::output({1, 1, 3}, kInt32);
  hax_key_select_forward_args args = {};
  args.score = score.arg();
  args.eviction = eviction.arg();
  EXPECT_EQ(run(hax_key_select_forward_workspace, hax_key_select_forward, context, args),
            HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(hax_last_error()),
            "hax_key_select_forward: budget: expected at least 1, got 0");
  EXPECT_TRUE(eviction.untouched());
}

// A million keys, whatever their order, take no more than a few times as long a key as 2^14 do. A
// quadratic method would take 64 times as long.
TEST(KeySelect, TimeGrowsAboutLinearly) {
  const TestContext context(1);
  const auto time_per_key = [&](const Family& family, int64_t length, int64_t budget) {
    SelectCase c{.length = length, .budget = budget};
    const Argument score = Argument::input(scores(family, c));
    const Argument eviction = Argument::output({1, 1, length}, kInt32);
    hax_key_select_forward_args args = {};
    args.score = score.arg();
    args.eviction = eviction.arg();
    args.budget = static_cast<int32_t>(budget);
    double best = kInf;
    for (int repeat = 0; repeat < 3; ++repeat) {
      const std::clock_t start =
          std::clock();  // of the process, so that a busy machine doesn't count
      EXPECT_EQ(run(hax_key_select_forward_workspace, hax_key_select_forward, context, args),
                HAX_SUCCESS);
      best = std::min(best, static_cast<double>(std::clock() - start));
    }
    return best / static_cast<double>(length);
  };
  for (const Family& family : kFamilies) {
    for (const int64_t budget : {64, 4096}) {
      const double few = time_per_key(family, 1 << 14, budget);
      const double many = time_per_key(family, 1 << 20, budget);
      EXPECT_LT(many, 8 * few) << family.name << ", budget " << budget;
    }
  }
}

// On CUDA rows of several chunks take bounds from their first 2048 and 8192 keys; up to 256 keys of a chunk of 2048 that
// exceed them are listed.
TEST(KeySelect, BoundsFromTheFirstKeys) {
  const TestContext context;
  const auto with_random = [](int64_t length, auto&& change) {
    Array score = random_normal({1, 1, length}, static_cast<uint64_t>(length));
    for (int64_t t = 0; t < length; ++t) {
      double& value = score.data[static_cast<size_t>(t)];
      value = change(t, value);
    }
    return score;
  };
  for (const int64_t length : {2049, 4096, 8191, 8192, 8193, 10239, 10241, 12288}) {
    for (const int64_t budget : {1, 31, 64, 200}) {
      SCOPED_TRACE("L=" + std::to_string(length) + " budget=" + std::to_string(budget));
      const SelectCase c{.length = length, .budget = budget};
      const auto expect = [&](auto&& change) {
        expect_selection_matches(c, round_to(with_random(length, change), kFp32), context);
      };
      expect([](int64_t, double x) { return x; });
      // No bounds: too few numbers among the first keys.
      expect([](int64_t t, double x) { return t < 2048 && t % 64 != 5 ? kNan : x; });
      expect([](int64_t t, double x) { return t < 9000 && t % 700 != 5 ? kNan : x; });
      // More of a chunk come in than are listed, exactly as many, and one less.
      for (const int64_t many : {255, 256, 257, 2048}) {
        expect([&](int64_t t, double x) { return t >= 8192 && t - 8192 < many ? 10.0 + x : x; });
      }
      // The bound itself, which is not enough to come in, and infinities.
      expect([](int64_t t, double x) { return t % 3 == 0 ? 0.5 : std::min(x, 0.5); });
      expect([](int64_t t, double x) { return t < 8192 ? -kInf : t % 50 == 0 ? kInf : x; });
    }
  }
}

}  // namespace
}  // namespace hax_test
