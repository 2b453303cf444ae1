#pragma once

#include <algorithm>
#include <cmath>

#include "array.hpp"

namespace hax_test {

inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
inline double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }
inline double silu(double x) { return x * sigmoid(x); }
inline double silu_derivative(double x) {
  const double s = sigmoid(x);
  return s * (1.0 + x * (1.0 - s));
}

// y = x w^T + bias over the last axis; w is (out, in), bias (out) or absent.
Array linear(const Array& x, const Array& w, const Array& bias = {});

struct LinearGrads {
  Array dx, dw, dbias;
};
LinearGrads linear_backward(const Array& x, const Array& w, const Array& dy);

}  // namespace hax_test
