// The end of the model: final norm, tied head and cross entropy, at the asked positions alone.
#pragma once

#include "model/parameters.hpp"
#include "model/pass.hpp"

namespace joint_recall {

// The asked tokens of a batch, on the device. Entries of padding have a negative target.
struct AskedTokensOnDevice {
  int64_t count = 0;
  const int32_t* positions = nullptr;
  const int32_t* targets = nullptr;
  const int32_t* offsets = nullptr;  // items + 1
  const float* scale = nullptr;      // of the sum of losses, for backward; null: none follows
  float* loss = nullptr;             // written by the head, like prediction
  int32_t* prediction = nullptr;
};

class Head {
 public:
  Head(const ModelConfig& config, ParameterStore& store);
  // The head's weights are the embedding's.
  void bind(const ParameterStore& store, const Weight& embedding);

  // Loss and predictions. hidden: one row per token.
  void score(Pass& pass, ConstMatrix hidden, const AskedTokensOnDevice& asked);
  // The same, and the gradients. d_hidden, which is 0, receives the rows of asked tokens.
  void train(Pass& pass, ConstMatrix hidden, const AskedTokensOnDevice& asked, Tokens d_hidden);

 private:
  HeadTerms terms(Pass& pass, ConstMatrix hidden, const AskedTokensOnDevice& asked) const;

  float epsilon_;
  Weight norm_, embedding_;
};

}  // namespace joint_recall
