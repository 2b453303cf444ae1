// The short convolution in front of both scans, with SiLU, through libhax.
#pragma once

#include <string>

#include "model/parameters.hpp"
#include "model/pass.hpp"

namespace joint_recall {

class CausalConv {
 public:
  CausalConv(const ModelConfig& config, int64_t channels, const std::string& prefix,
             ParameterStore& store);
  void bind(const ParameterStore& store);

  // y = SiLU(conv(x)), 0 at padded tokens.
  void forward(Pass& pass, ConstTokens x, Tokens y) const;
  // dy is masked in place.
  void backward(Pass& pass, ConstTokens x, Tokens dy, Tokens dx) const;

 private:
  std::string prefix_;
  int64_t channels_;
  int64_t width_;
  Weight weight_, bias_;
};

}  // namespace joint_recall
