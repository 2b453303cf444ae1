// The vector functions of the plainest CPU level, lane by lane against fp64. The wider levels compile the
// same source and are tested through the operators.
#define HAX_CPU_LEVEL_NAME baseline
#define HAX_VEC_BYTES 16
#include "core/simd.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/tensor_builder.hpp"

namespace hax::simd {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const float kNaN = std::numeric_limits<float>::quiet_NaN();

// Largest error of f against want over [low, high], relative to the result's size.
template <class F, class G>
double worst_error(F f, G want, float low, float high) {
  double worst = 0;
  constexpr int kSteps = 200000;
  for (int i = 0; i <= kSteps; ++i) {
    const float x = low + (high - low) * (static_cast<float>(i) / kSteps);
    const double exact = want(static_cast<double>(x));
    const double got = static_cast<double>(f(set(x))[0]);
    worst = std::max(worst, std::abs(got - exact) / std::abs(exact));
  }
  return worst;
}

TEST(Simd, ExponentialsStayWithinThreeUlp) {
  EXPECT_LT(worst_error([](Vec x) { return exp(x); }, [](double x) { return std::exp(x); }, -87.0f,
                        88.7f),
            3.6e-7);
  EXPECT_LT(worst_error([](Vec x) { return exp2(x); }, [](double x) { return std::exp2(x); },
                        -126.0f, 127.9f),
            3.6e-7);
}

// Lambdas, since the functions themselves are always inlined and have no address to take.
template <class F>
void expect_exponential_edges(F f) {
  EXPECT_EQ(f(set(0.0f))[0], 1.0f);
  EXPECT_EQ(f(set(-200.0f))[0], 0.0f);
  EXPECT_EQ(f(set(-kInfinity))[0], 0.0f);
  EXPECT_EQ(f(set(200.0f))[0], kInfinity);
  EXPECT_EQ(f(set(kInfinity))[0], kInfinity);
  EXPECT_TRUE(std::isnan(f(set(kNaN))[0]));
}

TEST(Simd, ExponentialsAtTheEdges) {
  expect_exponential_edges([](Vec x) { return exp(x); });
  expect_exponential_edges([](Vec x) { return exp2(x); });
}

TEST(Simd, SoftplusAndSigmoidKeepRelativePrecisionInBothTails) {
  EXPECT_LT(worst_error([](Vec x) { return softplus(x); },
                        [](double x) { return std::log1p(std::exp(x)); }, -80.0f, 80.0f),
            6e-7);
  EXPECT_LT(worst_error([](Vec x) { return sigmoid(x); },
                        [](double x) { return 1 / (1 + std::exp(-x)); }, -80.0f, 80.0f),
            6e-7);
  EXPECT_EQ(softplus(set(1e30f))[0], 1e30f);
  EXPECT_EQ(softplus(set(-1e30f))[0], 0.0f);
  EXPECT_EQ(sigmoid(set(-1e30f))[0], 0.0f);
  EXPECT_EQ(sigmoid(set(1e30f))[0], 1.0f);
}

TEST(Simd, SiluSlopeIsItsDerivative) {
  for (float x = -8.0f; x < 8.0f; x += 0.37f) {
    const double exact = [&] {
      const double s = 1 / (1 + std::exp(-static_cast<double>(x)));
      return s * (1 + static_cast<double>(x) * (1 - s));
    }();
    EXPECT_NEAR(static_cast<double>(silu_slope(set(x))[0]), exact, 1e-6);
  }
}

TEST(Simd, SixteenBitTypesGoBothWaysForEveryPattern) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto pattern = static_cast<uint16_t>(bits);
    const float from_fp16 = to_float(fp16{pattern});
    const float from_bf16 = to_float(bf16{pattern});
    fp16 four_fp16[4] = {{pattern}, {pattern}, {pattern}, {pattern}};
    bf16 four_bf16[4] = {{pattern}, {pattern}, {pattern}, {pattern}};
    if (std::isnan(from_fp16)) {
      EXPECT_TRUE(std::isnan(load(four_fp16)[0]));
      EXPECT_TRUE(std::isnan(to_float(from_float<fp16>(from_fp16))));
    } else {
      EXPECT_EQ(load(four_fp16)[1], from_fp16);
      EXPECT_EQ(from_float<fp16>(from_fp16).bits, pattern);
    }
    if (std::isnan(from_bf16)) {
      store(four_bf16, load(four_bf16));
      EXPECT_TRUE(std::isnan(to_float(four_bf16[0])));
      EXPECT_TRUE(std::isnan(to_float(from_float<bf16>(from_bf16))));
    } else {
      EXPECT_EQ(load(four_bf16)[1], from_bf16);
      EXPECT_EQ(from_float<bf16>(from_bf16).bits, pattern);
    }
  }
}

TEST(Simd, RoundingIsToNearestEven) {
  uint64_t state = 1;
  for (int i = 0; i < 200000; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const float x = bit_cast<float>(static_cast<uint32_t>(state >> 32));
    if (!std::isfinite(x)) continue;
    const double exact = static_cast<double>(x);
    ASSERT_EQ(static_cast<double>(to_float(from_float<fp16>(x))),
              hax_test::round_to(exact, hax_test::kFp16))
        << x;
    ASSERT_EQ(static_cast<double>(to_float(from_float<bf16>(x))),
              hax_test::round_to(exact, hax_test::kBf16))
        << x;
    bf16 lanes[4];
    store(lanes, set(x));
    ASSERT_EQ(lanes[2].bits, from_float<bf16>(x).bits) << x;
  }
}

TEST(Simd, PartialVectorsTouchOnlyTheirLanes) {
  float memory[6] = {1, 2, 3, 4, 5, 6};
  for (int n = 0; n <= kLanes; ++n) {
    const Vec v = load_first(memory, n);
    for (int i = 0; i < kLanes; ++i) EXPECT_EQ(v[i], i < n ? memory[i] : 0.0f);
    float target[6] = {9, 9, 9, 9, 9, 9};
    store_first(target, load(memory), n);
    for (int i = 0; i < 6; ++i) EXPECT_EQ(target[i], i < n ? memory[i] : 9.0f);
  }
}

}  // namespace
}  // namespace hax::simd
