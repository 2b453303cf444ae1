// Samba's attention layers: sliding window, several heads, rotary positions.
#include <cmath>

#include "model/linear.hpp"
#include "model/transform.hpp"

namespace joint_recall {
namespace {

class AttentionMixer : public Transform {
 public:
  AttentionMixer(const ModelConfig& config, const std::string& prefix, ParameterStore& store)
      : prefix_(prefix + "."),
        config_(config.attn),
        head_dim_(config.hidden_size / config.attn.num_heads) {
    const int64_t hidden = config.hidden_size, kv = config_.num_kv_heads * head_dim_;
    store.declare(prefix_ + "q_proj.weight", {hidden, hidden});
    store.declare(prefix_ + "k_proj.weight", {kv, hidden});
    store.declare(prefix_ + "v_proj.weight", {kv, hidden});
    store.declare(prefix_ + "o_proj.weight", {hidden, hidden});
  }

  void bind(const ParameterStore& store) override {
    q_proj_ = store.weight(prefix_ + "q_proj.weight");
    k_proj_ = store.weight(prefix_ + "k_proj.weight");
    v_proj_ = store.weight(prefix_ + "v_proj.weight");
    o_proj_ = store.weight(prefix_ + "o_proj.weight");
  }

  void forward(Pass& pass, const NormedStream& in, Tokens out) override {
    x_ = pass.arena.tokens(pass.tokens(), q_proj_.columns);
    const Tokens q = pass.arena.tokens(pass.tokens(), q_proj_.rows);
    pass.backend.norm_linear(in.hidden, in.norm(), nullptr, q_proj_.matrix(), x_, q);
    const Tokens k = project(pass, k_proj_), v = project(pass, v_proj_);
    rotate(pass, q, k, false);
    attention_ = {};
    attention_.q_heads = config_.num_heads;
    attention_.k_heads = config_.num_kv_heads;
    attention_.scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
    attention_.keys.patterns = HAX_PATTERN_SLIDING_WINDOW;
    attention_.keys.window = static_cast<int32_t>(config_.window_size);
    attention_.q = q;
    attention_.k = k;
    attention_.v = v;
    attention_.o = pass.arena.tokens(pass.tokens(), q.columns);
    attention_.lse = pass.arena.take<float>(pass.tokens() * config_.num_heads);
    attend(pass, attention_);
    linear(pass, attention_.o, o_proj_, in.hidden, out);
  }

  void backward(Pass& pass, const NormedStream& in, ConstTokens d_out, Tokens d_hidden) override {
    const Arena::Scope scope(pass.arena, pass.branches);
    const int64_t tokens = pass.tokens();
    const Tokens d_o = pass.arena.tokens(tokens, o_proj_.columns);
    const Tokens dq = pass.arena.tokens(tokens, q_proj_.rows);
    const Tokens dk = pass.arena.tokens(tokens, k_proj_.rows);
    const Tokens dv = pass.arena.tokens(tokens, v_proj_.rows);
    linear_backward_weight(pass, attention_.o, o_proj_, d_out);
    linear_backward_input(pass, o_proj_, d_out, {}, d_o);
    attend_backward(pass, attention_, d_o, dq, dk, dv);
    rotate(pass, dq, dk, true);
    linear_backward_weight(pass, x_, q_proj_, dq);
    linear_backward_weight(pass, x_, k_proj_, dk);
    linear_backward_weight(pass, x_, v_proj_, dv);
    const Tokens dx = pass.arena.tokens(tokens, x_.columns);
    linear_backward_input(pass, k_proj_, dk, {}, dx);
    linear_backward_input(pass, v_proj_, dv, dx, dx);
    pass.backend.norm_linear_backward(in.hidden, in.norm(), nullptr, q_proj_.matrix(), dq, dx,
                                      d_out, dx, d_hidden);
  }

  const Attention* attention() const override { return &attention_; }

 private:
  Tokens project(Pass& pass, const Weight& weight) const {
    const Tokens y = pass.arena.tokens(pass.tokens(), weight.rows);
    linear(pass, x_, weight, {}, y);
    return y;
  }

  void rotate(Pass& pass, Tokens q, Tokens k, bool inverse) const {
    pass.backend.rope(pass.position, config_.num_heads, config_.rope_theta, inverse, q);
    pass.backend.rope(pass.position, config_.num_kv_heads, config_.rope_theta, inverse, k);
  }

  std::string prefix_;
  AttnConfig config_;
  int64_t head_dim_;
  Weight q_proj_, k_proj_, v_proj_, o_proj_;

  Tokens x_;
  Attention attention_;
};

}  // namespace

std::unique_ptr<Transform> make_attention_mixer(const ModelConfig& config,
                                                const std::string& prefix, ParameterStore& store) {
  return std::make_unique<AttentionMixer>(config, prefix, store);
}

}  // namespace joint_recall
