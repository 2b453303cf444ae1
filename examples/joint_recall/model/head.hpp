// The end of the model: final norm, tied head and cross entropy, at the asked positions alone.
#pragma once

#include "model/parameters.hpp"
#include "model/pass.hpp"

namespace joint_recall {

struct AskedTokensOnDevice {
  int64_t count = 0;
  const int32_t* positions = nullptr;
  const int32_t* targets = nullptr;
};

class Head {
 public:
  Head(const ModelConfig& config, ParameterStore& store);
  // The head's weights are the embedding's.
  void bind(const ParameterStore& store, const Weight& embedding);

  // hidden: one row per token. gradient_scale: of the sum of losses, 0 where no backward follows.
  void forward(Pass& pass, ConstMatrix hidden, const AskedTokensOnDevice& asked,
               float gradient_scale);
  // d_hidden is overwritten.
  void backward(Pass& pass, const AskedTokensOnDevice& asked, Matrix d_hidden);

  // One for each asked position, on the device, after forward.
  const float* loss() const { return loss_; }
  const int32_t* prediction() const { return prediction_; }

 private:
  float epsilon_;
  Weight norm_, embedding_;
  Matrix rows_, normed_, logits_;
  float* loss_ = nullptr;
  int32_t* prediction_ = nullptr;
};

}  // namespace joint_recall
