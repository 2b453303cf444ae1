#include "comparator.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "finite_difference.hpp"

namespace hax_test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Array matrix(std::vector<double> values) { return Array({2, 3}, std::move(values)); }

void expect_failure(const Array& got, const Array& want, const std::string& said) {
  const ::testing::AssertionResult result = expect_close("tensor", got, want, 1e-3);
  EXPECT_FALSE(result);
  EXPECT_NE(std::string(result.message()).find(said), std::string::npos) << result.message();
}

TEST(Comparator, AcceptsEqualAndNearValues) {
  const Array want = matrix({1, 2, kNan, kInfinity, -kInfinity, 6});
  EXPECT_TRUE(expect_close("equal", want, want, 0.0));
  Array near = want;
  near.at(0, 0) += 1e-4;
  EXPECT_TRUE(expect_close("near", near, want, 1e-3));
  EXPECT_FALSE(expect_close("near", near, want, 1e-6));
  EXPECT_TRUE(expect_close("nothing", zeros({0, 3}), zeros({0, 3}), 0.0));
}

TEST(Comparator, CatchesNan) {
  const Array want = matrix({1, 2, 3, 4, 5, 6});
  expect_failure(matrix({1, 2, 3, 4, kNan, 6}), want, "NaN or infinity differs at (1, 1)");
  expect_failure(want, matrix({1, 2, kNan, 4, 5, 6}), "at (0, 2)");
  expect_failure(matrix({kNan, kNan, kNan, kNan, kNan, kNan}), want, "at (0, 0)");
}

TEST(Comparator, CatchesInfinityAndItsSign) {
  const Array want = matrix({1, 2, 3, -kInfinity, 5, 6});
  expect_failure(matrix({1, 2, 3, kInfinity, 5, 6}), want, "at (1, 0)");
  expect_failure(matrix({1, 2, 3, -1e300, 5, 6}), want, "at (1, 0)");
  expect_failure(matrix({1, 2, 3, kNan, 5, 6}), want, "at (1, 0)");
}

TEST(Comparator, CatchesMissingValuesAndWrongShapes) {
  const Array want = matrix({1, 2, 3, 4, 5, 6});
  expect_failure(Array(), want, "shape ()");
  expect_failure(want.reshape({3, 2}), want, "shape (3, 2), want (2, 3)");
  expect_failure(zeros({0}), want, "shape (0)");
  Array truncated = want;
  truncated.data.pop_back();
  expect_failure(truncated, want, "shape");
}

TEST(Comparator, NamesTheWorstCoordinate) {
  const Array want = matrix({1, 2, 3, 4, 5, 6});
  expect_failure(matrix({1.01, 2, 3, 4, 5, 7}), want, "worst at (1, 2): got 7, want 6");
}

TEST(Comparator, ZeroReferenceIsComparedAbsolutely) {
  EXPECT_TRUE(expect_close("zero", Array({1}, 1e-9), zeros({1}), 1e-8));
  EXPECT_FALSE(expect_close("zero", Array({1}, 1e-7), zeros({1}), 1e-8));
}

TEST(FiniteDifference, AcceptsTheGradientAndNothingElse) {
  Array x = random_normal({3, 4}, 1);
  auto loss = [&] {
    double sum = 0.0;
    for (double value : x.data) sum += std::sin(value);
    return sum;
  };
  Array gradient = x;
  for (double& value : gradient.data) value = std::cos(value);
  const Array before = x;
  EXPECT_TRUE(expect_gradient("sin", loss, x, gradient));
  EXPECT_EQ(x.data, before.data);
  for (size_t i = 0; i < gradient.data.size(); ++i) {
    Array wrong = gradient;
    wrong.data[i] += 1e-3;
    EXPECT_FALSE(expect_gradient("sin", loss, x, wrong)) << i;
  }
  gradient.at(1, 1) = kNan;
  EXPECT_FALSE(expect_gradient("sin", loss, x, gradient));
  EXPECT_FALSE(expect_gradient("sin", loss, x, gradient.reshape({4, 3})));
}

}  // namespace
}  // namespace hax_test
