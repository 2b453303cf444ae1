#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <string>

#include "array.hpp"
#include "comparator.hpp"

namespace hax_test {

struct FiniteDifferenceOptions {
  int64_t samples = 12;  // coordinates tried; all of them where the array is no larger
  double step = 1e-4;    // relative to max(1, |x|)
  double tolerance = 1e-6;
  uint64_t seed = 1;
};

// Distinct flat indices of an array of `count` elements.
inline std::vector<int64_t> sample_coordinates(int64_t count, int64_t samples, uint64_t seed) {
  std::vector<int64_t> all(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) all[static_cast<size_t>(i)] = i;
  std::mt19937_64 engine(seed);
  std::shuffle(all.begin(), all.end(), engine);
  all.resize(static_cast<size_t>(std::min(count, samples)));
  return all;
}

// d loss / d x[coordinate], by the fourth-order central difference. `x` is restored afterwards.
inline double central_difference(const std::function<double()>& loss, double& x, double step) {
  const double kept = x;
  const double h = step * std::max(1.0, std::abs(kept));
  auto moved = [&](double by) {
    x = kept + by;
    const double value = loss();
    x = kept;
    return value;
  };
  return (8.0 * (moved(h) - moved(-h)) - (moved(2.0 * h) - moved(-2.0 * h))) / (12.0 * h);
}

// Compares `gradient` with differences of `loss`, which reads `x` by reference.
inline ::testing::AssertionResult expect_gradient(const std::string& name,
                                                  const std::function<double()>& loss, Array& x,
                                                  const Array& gradient,
                                                  const FiniteDifferenceOptions& options = {}) {
  if (x.shape != gradient.shape) {
    return ::testing::AssertionFailure()
           << name << ": gradient has shape " << to_string(gradient.shape) << ", want "
           << to_string(x.shape);
  }
  const auto sample = sample_coordinates(x.numel(), options.samples, options.seed);
  const auto count = static_cast<int64_t>(sample.size());
  Array got(std::vector<int64_t>{count}), want(std::vector<int64_t>{count});
  for (int64_t s = 0; s < count; ++s) {
    const auto i = static_cast<size_t>(sample[static_cast<size_t>(s)]);
    got.at(s) = gradient.data[i];
    want.at(s) = central_difference(loss, x.data[i], options.step);
  }
  // A sample of zeros would leave only rounding to compare, hence the absolute way out.
  const Difference gap = difference(got, want);
  const bool masks_agree = first_mask_mismatch(got, want) < 0;
  double largest = 0.0;
  for (int64_t s = 0; s < count; ++s) largest = std::max(largest, std::abs(got.at(s) - want.at(s)));
  if (masks_agree && (gap.error <= options.tolerance || largest <= 1e-3 * options.tolerance)) {
    return ::testing::AssertionSuccess();
  }
  const int64_t worst = std::max<int64_t>(gap.worst, 0);
  return ::testing::AssertionFailure()
         << name << ": relative error " << gap.error << " exceeds " << options.tolerance
         << "; worst at " << coordinate(x, sample[static_cast<size_t>(worst)]) << ": gradient "
         << got.at(worst) << ", difference quotient " << want.at(worst);
}

}  // namespace hax_test
