#include <cmath>

#include "hash/hash_case.hpp"

namespace hax_test {
namespace {

struct HashCase {
  int64_t batch = 2, length = 61, heads = 3, features = 11, bits = 9;
  int32_t statistics = HAX_LSH_STATISTICS_CAUSAL;
  std::vector<int64_t> cu_seqlens = {};
  hax_data_type type = kFp32;
  hax_data_type index_type = kInt32;
  Layout layout = Layout::compact;
  double mean = 0.3;
  uint64_t seed = 1;

  Array x() const {
    return round_to(random_normal({batch, length, heads, features}, seed, mean), type);
  }
  Array R() const { return round_to(random_normal({features, bits}, seed + 1), kFp32); }
};

std::string describe(const HashCase& c) {
  return "B=" + std::to_string(c.batch) + " L=" + std::to_string(c.length) +
         " H=" + std::to_string(c.heads) + " N=" + std::to_string(c.features) +
         " bits=" + std::to_string(c.bits) + " statistics=" + std::to_string(c.statistics) + " " +
         name_of(c.type) + " " + name_of(c.layout) + (c.cu_seqlens.empty() ? "" : " packed");
}

Argument hash(const HashCase& c, const Array& x, const Array& R, const hax_context* context) {
  const Argument x_arg = Argument::input(x, c.type, c.layout);
  const Argument R_arg = Argument::input(R, kFp32, c.layout);
  const Argument cu_seqlens = boundaries(c.cu_seqlens, c.index_type);
  const Argument code = Argument::output({c.batch, c.heads, c.length}, kInt64, c.layout);
  hax_lsh_hash_forward_args args = {};
  args.x = x_arg.arg();
  args.R = R_arg.arg();
  args.cu_seqlens = cu_seqlens.arg();
  args.code = code.arg();
  args.statistics = c.statistics;
  EXPECT_EQ(run(hax_lsh_hash_forward_workspace, hax_lsh_hash_forward, context, args), HAX_SUCCESS)
      << hax_last_error();
  EXPECT_TRUE(code.sentinels_intact());
  return code;
}

LshStatistics oracle_statistics(int32_t statistics) {
  if (statistics == HAX_LSH_STATISTICS_NONE) return LshStatistics::kNone;
  return statistics == HAX_LSH_STATISTICS_SEQUENCE ? LshStatistics::kSequence
                                                   : LshStatistics::kCausal;
}

// Every bit whose projection isn't within rounding of 0 is the oracle's, and such bits are rare.
void expect_codes_match(const HashCase& c, const Array& x, const hax_context* context) {
  SCOPED_TRACE(describe(c));
  const Array R = c.R();
  const std::vector<int64_t> codes = hash(c, x, R, context).integers();
  const LshHash want = oracle_lsh_hash(x, R, oracle_statistics(c.statistics), c.cu_seqlens);
  const double magnitude = c.statistics == HAX_LSH_STATISTICS_NONE ? 1.0 + std::abs(c.mean) : 1.0;
  const double tiny = 1e-7 * magnitude * std::sqrt(static_cast<double>(c.features));
  int64_t near_zero = 0;
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int64_t h = 0; h < c.heads; ++h) {
      for (int64_t t = 0; t < c.length; ++t) {
        const auto code =
            static_cast<uint64_t>(codes[static_cast<size_t>((b * c.heads + h) * c.length + t)]);
        ASSERT_EQ(code >> c.bits, 0u);
        for (int64_t j = 0; j < c.bits; ++j) {
          const double projection = want.projection.at(b, t, h, j);
          if (projection != 0.0 && std::abs(projection) < tiny) {
            ++near_zero;
            continue;
          }
          ASSERT_EQ((code >> j & 1) != 0, projection > 0.0)
              << "sequence " << b << ", token " << t << ", head " << h << ", bit " << j
              << ", projection " << projection;
        }
      }
    }
  }
  EXPECT_LE(near_zero, 2 + static_cast<int64_t>(codes.size()) * c.bits / 1000);
}

void expect_codes_match(const HashCase& c, const hax_context* context) {
  expect_codes_match(c, c.x(), context);
}

constexpr int32_t kStatistics[] = {HAX_LSH_STATISTICS_NONE, HAX_LSH_STATISTICS_SEQUENCE,
                                   HAX_LSH_STATISTICS_CAUSAL};

TEST(LshHash, HostileShapes) {
  const TestContext context;
  for (const int32_t statistics : kStatistics) {
    for (const int64_t length : {0, 1, 2, 47, 48, 49, 383, 384, 385, 800}) {
      expect_codes_match({.batch = 1, .length = length, .heads = 2, .statistics = statistics},
                         context);
    }
    for (const int64_t features : {1, 2, 7, 8, 9, 31, 32, 33, 255, 256}) {
      expect_codes_match({.features = features, .statistics = statistics}, context);
    }
    for (const int64_t bits : {1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 62, 63}) {
      expect_codes_match({.bits = bits, .statistics = statistics}, context);
    }
    expect_codes_match({.batch = 0, .statistics = statistics}, context);
    expect_codes_match({.heads = 0, .statistics = statistics}, context);
  }
}

TEST(LshHash, EveryTypeAndLayoutOnEveryCpuLevel) {
  for (const std::string& level : available_cpu_levels()) {
    SCOPED_TRACE(level);
    const TestContext context(2, level.c_str());
    for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
      for (const Layout layout : kLayouts) {
        for (const int32_t statistics : kStatistics) {
          expect_codes_match({.length = 53,
                              .features = 19,
                              .bits = 21,
                              .statistics = statistics,
                              .type = type,
                              .layout = layout},
                             context);
        }
      }
    }
  }
}

TEST(LshHash, PackedEqualsSeparateSequences) {
  const TestContext context;
  const HashCase packed{.batch = 1, .length = 1200, .cu_seqlens = cut_up(1200)};
  for (const int32_t statistics : kStatistics) {
    HashCase c = packed;
    c.statistics = statistics;
    for (const hax_data_type index_type : {kInt32, kInt64}) {
      c.index_type = index_type;
      const std::vector<int64_t> codes = hash(c, c.x(), c.R(), context).integers();
      for (const Stretch& s : stretches(1, c.length, c.cu_seqlens)) {
        HashCase alone = c;
        alone.cu_seqlens = {};
        alone.length = s.length;
        const Array x = slice_axis(c.x(), 1, s.first, s.first + s.length);
        const std::vector<int64_t> want = hash(alone, x, c.R(), context).integers();
        for (int64_t h = 0; h < c.heads; ++h) {
          EXPECT_EQ(values_of(codes, c.heads, c.length, s, h),
                    values_of(want, c.heads, s.length, {0, 0, s.length}, h));
        }
      }
    }
  }
  expect_codes_match(packed, context);
  expect_codes_match({.batch = 1, .length = 0, .cu_seqlens = {0}}, context);
  expect_codes_match({.batch = 1, .length = 0, .cu_seqlens = {0, 0, 0}}, context);
}

TEST(LshHash, ManySequences) {
  const std::vector<int64_t> cu_seqlens = many_sequences();
  expect_codes_match({.batch = 1,
                      .length = cu_seqlens.back(),
                      .heads = 1,
                      .features = 3,
                      .bits = 4,
                      .cu_seqlens = cu_seqlens},
                     TestContext(2));
}

TEST(LshHash, SameBitsForEveryThreadCount) {
  const HashCase c{.batch = 1, .length = 5000, .heads = 1, .features = 16, .bits = 40};
  const TestContext one(1);
  const std::vector<int64_t> want = hash(c, c.x(), c.R(), one).integers();
  for (const int threads : {2, 3, 16}) {
    const TestContext several(threads);
    EXPECT_EQ(hash(c, c.x(), c.R(), several).integers(), want);
  }
}

// A mean 10^6 times the deviation: sums of squares in fp32, or fp64 sums of squares minus squared
// sums, lose the norm; the mean itself must be right to far more digits than fp32 has.
TEST(LshHash, StatisticsSurviveALargeMean) {
  const TestContext context;
  for (const int32_t statistics : {HAX_LSH_STATISTICS_SEQUENCE, HAX_LSH_STATISTICS_CAUSAL}) {
    expect_codes_match(
        {.batch = 1, .length = 1000, .features = 8, .statistics = statistics, .mean = 1e6},
        context);
  }
}

// Deviations of 10^-4 about a mean that drifts by a million of them.
TEST(LshHash, StatisticsSurviveADrift) {
  const TestContext context;
  HashCase c{.batch = 1, .length = 1000, .heads = 1, .features = 8};
  Array x = c.x();
  for (int64_t t = 0; t < c.length; ++t) {
    for (int64_t n = 0; n < c.features; ++n) {
      double& value = x.at(int64_t{0}, t, int64_t{0}, n);
      value = 1e-4 * value + 0.1 * static_cast<double>(t);
    }
  }
  x = round_to(x, kFp32);
  for (const int32_t statistics : {HAX_LSH_STATISTICS_SEQUENCE, HAX_LSH_STATISTICS_CAUSAL}) {
    c.statistics = statistics;
    expect_codes_match(c, x, context);
  }
}

// Centred, every feature is exactly 0.
TEST(LshHash, ConstantFeaturesHaveCodeZero) {
  const TestContext context;
  HashCase c{.batch = 1, .length = 900, .heads = 1, .features = 5, .bits = 63};
  const Array x = round_to(Array({1, c.length, 1, c.features}, 0.1), kFp32);
  for (const int32_t statistics : {HAX_LSH_STATISTICS_SEQUENCE, HAX_LSH_STATISTICS_CAUSAL}) {
    c.statistics = statistics;
    EXPECT_EQ(hash(c, x, c.R(), context).integers(), std::vector<int64_t>(900, 0));
  }
}

// Such features count for nothing or little beside the others.
TEST(LshHash, FeaturesThatHardlyVary) {
  const TestContext context;
  HashCase c{.batch = 1, .length = 500, .heads = 1, .features = 4, .bits = 30};
  Array x = c.x();
  for (int64_t t = 0; t < c.length; ++t) {
    x.at(int64_t{0}, t, int64_t{0}, int64_t{1}) = 0.5;
    x.at(int64_t{0}, t, int64_t{0}, int64_t{2}) *= 1e-14;
  }
  x = round_to(x, kFp32);
  for (const int32_t statistics : {HAX_LSH_STATISTICS_SEQUENCE, HAX_LSH_STATISTICS_CAUSAL}) {
    c.statistics = statistics;
    expect_codes_match(c, x, context);
  }
}

TEST(LshHash, CausalCodesIgnoreTheFuture) {
  const TestContext context;
  HashCase c{.batch = 1, .length = 500, .heads = 1};
  const Array x = c.x();
  const std::vector<int64_t> whole = hash(c, x, c.R(), context).integers();
  const Array R = c.R();
  c.length = 390;
  std::vector<int64_t> prefix = hash(c, slice_axis(x, 1, 0, 390), R, context).integers();
  EXPECT_EQ(prefix, std::vector<int64_t>(whole.begin(), whole.begin() + 390));
}

TEST(LshHash, NanLeavesBitsUnset) {
  const TestContext context;
  HashCase c{.batch = 1, .length = 10, .heads = 1, .bits = 63};
  Array x = c.x();
  x.at(int64_t{0}, int64_t{4}, int64_t{0}, int64_t{2}) = std::nan("");
  const std::vector<int64_t> causal = hash(c, x, c.R(), context).integers();
  for (size_t t = 4; t < causal.size(); ++t) EXPECT_EQ(causal[t], 0) << t;
  EXPECT_NE(causal[3], 0);
  c.statistics = HAX_LSH_STATISTICS_NONE;
  const std::vector<int64_t> plain = hash(c, x, c.R(), context).integers();
  EXPECT_EQ(plain[4], 0);
  EXPECT_NE(plain[5], 0);
  c.statistics = HAX_LSH_STATISTICS_SEQUENCE;
  EXPECT_EQ(hash(c, x, c.R(), context).integers(), std::vector<int64_t>(10, 0));
}

TEST(LshHash, RejectsWhatItCannotDo) {
  const TestContext context;
  const Argument code = Argument::output({1, 1, 4}, kInt64);
  const auto status = [&](const Argument& x, const Argument& R, int32_t statistics) {
    hax_lsh_hash_forward_args args = {};
    args.x = x.arg();
    args.R = R.arg();
    args.code = code.arg();
    args.statistics = statistics;
    return run(hax_lsh_hash_forward_workspace, hax_lsh_hash_forward, context, args);
  };
  const Argument x = Argument::input(Array({1, 4, 1, 3})), R = Argument::input(Array({3, 5}));
  EXPECT_EQ(status(x, R, 3), HAX_ERROR_UNSUPPORTED);
  EXPECT_EQ(std::string(hax_last_error()),
            "hax_lsh_hash_forward: statistics: expected HAX_LSH_STATISTICS_NONE (0), SEQUENCE (1) "
            "or CAUSAL (2), got 3");
  EXPECT_EQ(status(x, Argument::input(Array({3, 64})), 0), HAX_ERROR_UNSUPPORTED);
  EXPECT_EQ(status(x, Argument::input(Array({3, 0})), 0), HAX_ERROR_UNSUPPORTED);
  EXPECT_EQ(status(x, Argument::input(Array({3, 5}), kBf16), 0), HAX_ERROR_UNSUPPORTED);
  EXPECT_EQ(status(x, Argument::input(Array({4, 5})), 0), HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(status(Argument::input(Array({1, 4, 1, 257})), Argument::input(Array({257, 5})), 0),
            HAX_ERROR_UNSUPPORTED);
  EXPECT_TRUE(code.untouched());
}

TEST(LshHash, CudaTensorsNeedABuildWithCuda) {
  const TestContext context;
  Argument x = Argument::input(Array({1, 4, 1, 3})), R = Argument::input(Array({3, 5}));
  Argument code = Argument::output({1, 1, 4}, kInt64);
  for (Argument* argument : {&x, &R, &code}) {
    argument->descriptor()->device = {HAX_DEVICE_CUDA, 0};
  }
  hax_lsh_hash_forward_args args = {};
  args.struct_size = sizeof(args);
  args.x = x.arg();
  args.R = R.arg();
  args.code = code.arg();
  size_t bytes = 0;
#ifdef HAX_WITH_CUDA
  EXPECT_EQ(hax_lsh_hash_forward_workspace(context, &args, &bytes), HAX_SUCCESS);
#else
  EXPECT_EQ(hax_lsh_hash_forward_workspace(context, &args, &bytes), HAX_ERROR_UNSUPPORTED);
  EXPECT_TRUE(std::string(hax_last_error()).starts_with("hax_lsh_hash_forward: "));
#endif
}

// Around the tiles of the CUDA kernels, with whole vectors of features.
TEST(LshHash, SeveralTilesOfEveryType) {
  const TestContext context;
  for (const int32_t statistics : kStatistics) {
    for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
      for (const int64_t length : {255, 256, 257, 700}) {
        expect_codes_match({.batch = 1,
                            .length = length,
                            .heads = 2,
                            .features = 64,
                            .bits = 16,
                            .statistics = statistics,
                            .type = type,
                            .mean = 0.1},
                           context);
      }
    }
  }
}

// More tiles than one thread of the scan takes, and codes of two panels.
TEST(LshHash, LongSequences) {
  const TestContext context;
  for (const int32_t statistics : kStatistics) {
    expect_codes_match({.batch = 1,
                        .length = 9001,
                        .heads = 1,
                        .features = 40,
                        .bits = 45,
                        .statistics = statistics},
                       context);
  }
}

// Infinities are projected as IEEE arithmetic does it.
TEST(LshHash, InfinitiesKeepTheirSign) {
  const TestContext context;
  HashCase c{.batch = 1, .length = 40, .heads = 1, .statistics = HAX_LSH_STATISTICS_NONE};
  for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
    c.type = type;
    Array x = c.x();
    x.at(int64_t{0}, int64_t{5}, int64_t{0}, int64_t{3}) = INFINITY;
    x.at(int64_t{0}, int64_t{30}, int64_t{0}, int64_t{3}) = -INFINITY;
    const Array R = c.R();
    const std::vector<int64_t> codes = hash(c, x, R, context).integers();
    for (int64_t bit = 0; bit < c.bits; ++bit) {
      const bool positive = R.at(int64_t{3}, bit) > 0.0;
      EXPECT_EQ((codes[5] >> bit & 1) != 0, positive) << "bit " << bit;
      EXPECT_EQ((codes[30] >> bit & 1) != 0, !positive) << "bit " << bit;
    }
  }
}

}  // namespace
}  // namespace hax_test
