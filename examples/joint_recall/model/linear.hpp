// Projections y = x W^T without bias.
#pragma once

#include "model/parameters.hpp"
#include "model/pass.hpp"

namespace joint_recall {

// y = x W^T + beta y
inline void linear(Pass& pass, ConstMatrix x, const Weight& weight, float beta, Matrix y) {
  pass.backend.gemm(false, true, 1.0f, x, weight.matrix(), beta, y);
}

// dW += dy^T x; dx = dy W + beta dx, unless dx is absent
inline void linear_backward(Pass& pass, ConstMatrix x, const Weight& weight, ConstMatrix dy,
                            float beta, Matrix dx) {
  pass.backend.gemm(true, false, 1.0f, dy, x, 1.0f, weight.gradient_matrix());
  if (dx.present()) pass.backend.gemm(false, false, 1.0f, dy, weight.matrix(), beta, dx);
}

}  // namespace joint_recall
