// Projections y = x W^T without bias.
#pragma once

#include "model/parameters.hpp"
#include "model/pass.hpp"

namespace joint_recall {

// y = x W^T + addend; the addend may be absent, or y.
inline void linear(Pass& pass, ConstTokens x, const Weight& weight, ConstTokens addend, Tokens y) {
  pass.backend.gemm(false, true, x, weight.matrix(), addend, y);
}

// dW += dy^T x, beside the main line: x and dy have to stay.
inline void linear_backward_weight(Pass& pass, ConstTokens x, const Weight& weight,
                                   ConstTokens dy) {
  pass.branch(Branch::kWeights, [&] {
    pass.backend.gemm(true, false, dy, x, weight.gradient_matrix(), weight.gradient_matrix());
  });
}

// dx = dy W + addend; the addend may be absent, or dx.
inline void linear_backward_input(Pass& pass, const Weight& weight, ConstTokens dy,
                                  ConstTokens addend, Tokens dx) {
  pass.backend.gemm(false, false, dy, weight.matrix(), addend, dx);
}

}  // namespace joint_recall
