// The attention beside the scan: queries and keys from the layer's channels, the choice of keys by
// hashing and scoring, and the attention itself. Mamba and Mamba-2 share it.
#pragma once

#include <string>

#include "model/attend.hpp"
#include "model/parameters.hpp"
#include "model/pass.hpp"

namespace joint_recall {

class SparseBranch {
 public:
  // Declares nothing where the configuration has no sparse attention.
  SparseBranch(const ModelConfig& config, int64_t layer, const std::string& prefix,
               ParameterStore& store);
  void bind(const ParameterStore& store);

  bool present() const { return patterns_ != 0; }
  // The hash projection and the ranking loss's picks.
  void prepare(Pass& pass);
  // Begins the attention beside the main line. x: the convolution's output, one row per token; it has
  // to stay as it is until backward.
  void forward(Pass& pass, ConstTokens x);
  // Begins the attention's gradients.
  void backward(Pass& pass, ConstTokens d_o);
  // Waits for the attention: after forward before output() is read, ...
  void join(Pass& pass) const { pass.join(Branch::kAttention); }
  // ... after backward to let dx += the gradient that comes through the attention.
  void add_gradient(Pass& pass, ConstTokens x, Tokens dx);

  // The output, scaled by E where it joins the layer; absent without sparse attention.
  ConstTokens output() const { return attention_.o; }
  const Weight& E() const { return E_; }
  const Attention* attention() const { return present() ? &attention_ : nullptr; }
  const float* ranking_loss() const { return ranking_.loss; }

 private:
  // Key scores and what trains them.
  struct Ranking {
    float* score = nullptr;   // (B, 1, L)
    int32_t* pick = nullptr;  // (sequences, 1, budget)
    float* target = nullptr;  // (sequences, 1, budget)
    float* loss = nullptr;    // one number
  };

  void choose_by_hash(Pass& pass);
  void choose_by_score(Pass& pass);
  void rank(Pass& pass);
  void rank_backward(Pass& pass);

  std::string prefix_;
  int64_t layer_ = 0;
  uint32_t patterns_ = 0;
  int32_t budget_ = 0;  // keys of each pattern
  int32_t dilation_ = 0;
  int64_t channels_ = 0;
  int64_t state_size_ = 0;
  int32_t num_hash_ = 0;
  int32_t statistics_ = 0;
  int32_t key_score_norm_ = 0;
  bool fixed_hash_ = false;

  Weight xx_proj_, E_, hash_projection_;
  Weight W1_, b1_, W2_, b2_, W3_, b3_;

  const float* R_ = nullptr;  // hash projection of the pass
  Tokens kq_;                 // keys, then queries
  Tokens dkq_, dv_;           // their gradients; that of the values, to which theirs joins
  Attention attention_;
  Ranking ranking_;
};

}  // namespace joint_recall
