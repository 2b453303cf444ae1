#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "array.hpp"

namespace hax_test {

// How far `got` lies from `want` once shapes and non-finite values are known to agree.
struct Difference {
  double error = 0.0;  // ||got - want|| / ||want||, or ||got - want|| where want is zero
  int64_t worst = -1;  // flat index of the largest absolute difference, -1 when equal
};

inline std::string coordinate(const Array& a, int64_t flat) {
  std::vector<int64_t> index(a.shape.size());
  for (size_t axis = a.shape.size(); axis-- > 0;) {
    index[axis] = flat % a.shape[axis];
    flat /= a.shape[axis];
  }
  return to_string(index);
}

// The first flat index where one value is NaN or infinite and the other isn't the same; -1 if none.
inline int64_t first_mask_mismatch(const Array& got, const Array& want) {
  for (int64_t i = 0; i < want.numel(); ++i) {
    const double g = got.data[static_cast<size_t>(i)], w = want.data[static_cast<size_t>(i)];
    if (std::isnan(g) != std::isnan(w)) return i;
    if ((std::isinf(g) || std::isinf(w)) && g != w) return i;
  }
  return -1;
}

// Norm-relative difference over the finite values; shapes must be equal.
inline Difference difference(const Array& got, const Array& want) {
  Difference result;
  double squared_error = 0.0, squared_norm = 0.0, worst = 0.0;
  for (int64_t i = 0; i < want.numel(); ++i) {
    const double g = got.data[static_cast<size_t>(i)], w = want.data[static_cast<size_t>(i)];
    if (!std::isfinite(g) || !std::isfinite(w)) continue;
    const double gap = std::abs(g - w);
    squared_error += gap * gap;
    squared_norm += w * w;
    if (gap > worst) {
      worst = gap;
      result.worst = i;
    }
  }
  result.error = std::sqrt(squared_norm > 0.0 ? squared_error / squared_norm : squared_error);
  return result;
}

inline ::testing::AssertionResult expect_close(const std::string& name, const Array& got,
                                               const Array& want, double tolerance) {
  auto describe = [&](int64_t i) {
    return " at " + coordinate(want, i) + ": got " +
           ::testing::PrintToString(got.data[static_cast<size_t>(i)]) + ", want " +
           ::testing::PrintToString(want.data[static_cast<size_t>(i)]);
  };
  if (got.shape != want.shape || got.numel() != want.numel()) {
    return ::testing::AssertionFailure()
           << name << ": shape " << to_string(got.shape) << ", want " << to_string(want.shape);
  }
  if (const int64_t i = first_mask_mismatch(got, want); i >= 0) {
    return ::testing::AssertionFailure() << name << ": NaN or infinity differs" << describe(i);
  }
  const Difference gap = difference(got, want);
  if (gap.error <= tolerance) {
    return ::testing::AssertionSuccess() << name << ": relative error " << gap.error;
  }
  return ::testing::AssertionFailure() << name << ": relative error " << gap.error << " exceeds "
                                       << tolerance << "; worst" << describe(gap.worst);
}

}  // namespace hax_test
