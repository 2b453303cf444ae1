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

  void forward(Pass& pass, Matrix x, Matrix out) override {
    x_ = x;
    const Matrix q = project(pass, q_proj_), k = project(pass, k_proj_), v = project(pass, v_proj_);
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
    attention_.o = pass.arena.matrix(pass.tokens(), q.columns);
    attention_.lse = pass.arena.take<float>(pass.tokens() * config_.num_heads);
    attend(pass, attention_);
    linear(pass, attention_.o, o_proj_, 1.0f, out);
  }

  void backward(Pass& pass, ConstMatrix d_out, Matrix dx) override {
    const Arena::Scope scope(pass.arena);
    const int64_t tokens = pass.tokens();
    const Matrix d_o = pass.arena.matrix(tokens, o_proj_.columns);
    const Matrix dq = pass.arena.matrix(tokens, q_proj_.rows);
    const Matrix dk = pass.arena.matrix(tokens, k_proj_.rows);
    const Matrix dv = pass.arena.matrix(tokens, v_proj_.rows);
    linear_backward(pass, attention_.o, o_proj_, d_out, 0.0f, d_o);
    attend_backward(pass, attention_, d_o, dq, dk, dv);
    rotate(pass, dq, dk, true);
    linear_backward(pass, x_, q_proj_, dq, 0.0f, dx);
    linear_backward(pass, x_, k_proj_, dk, 1.0f, dx);
    linear_backward(pass, x_, v_proj_, dv, 1.0f, dx);
  }

  const Attention* attention() const override { return &attention_; }

 private:
  Matrix project(Pass& pass, const Weight& weight) const {
    const Matrix y = pass.arena.matrix(pass.tokens(), weight.rows);
    linear(pass, x_, weight, 0.0f, y);
    return y;
  }

  void rotate(Pass& pass, Matrix q, Matrix k, bool inverse) const {
    pass.backend.rope(pass.position, config_.num_heads, config_.rope_theta, inverse, q);
    pass.backend.rope(pass.position, config_.num_kv_heads, config_.rope_theta, inverse, k);
  }

  std::string prefix_;
  AttnConfig config_;
  int64_t head_dim_;
  Weight q_proj_, k_proj_, v_proj_, o_proj_;

  Matrix x_;
  Attention attention_;
};

}  // namespace

std::unique_ptr<Transform> make_attention_mixer(const ModelConfig& config,
                                                const std::string& prefix, ParameterStore& store) {
  return std::make_unique<AttentionMixer>(config, prefix, store);
}

}  // namespace joint_recall
