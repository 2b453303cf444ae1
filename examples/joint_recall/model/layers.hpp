// The residual stream: a stack of h += f(RMSNorm(h)).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/transform.hpp"

namespace joint_recall {

// One such step: a norm and the transform behind it.
class ResidualStep {
 public:
  ResidualStep(const ModelConfig& config, int64_t layer, const std::string& norm_prefix,
               std::unique_ptr<Transform> transform, ParameterStore& store);
  void bind(const ParameterStore& store);

  int64_t layer() const { return layer_; }
  const Transform& transform() const { return *transform_; }

  void prepare(Pass& pass) { transform_->prepare(pass); }
  // Returns the new stream; the old one has to stay until backward.
  Matrix forward(Pass& pass, Matrix hidden);
  // Returns the gradient of the old stream; that of the new one has to stay until the pass's end.
  Tokens backward(Pass& pass, ConstTokens d_hidden);

 private:
  int64_t layer_;
  std::string norm_name_;
  std::unique_ptr<Transform> transform_;
  NormedStream in_;
};

// All of a model's, declared in order.
std::vector<ResidualStep> make_residual_steps(const ModelConfig& config, ParameterStore& store);

}  // namespace joint_recall
