// Samba's MLP: down(SiLU(gate(x)) up(x)).
#include "model/linear.hpp"
#include "model/transform.hpp"

namespace joint_recall {
namespace {

class SwigluMlp : public Transform {
 public:
  SwigluMlp(const ModelConfig& config, const std::string& prefix, ParameterStore& store)
      : prefix_(prefix + ".") {
    store.declare(prefix_ + "gate_proj.weight", {config.mlp_size(), config.hidden_size});
    store.declare(prefix_ + "up_proj.weight", {config.mlp_size(), config.hidden_size});
    store.declare(prefix_ + "down_proj.weight", {config.hidden_size, config.mlp_size()});
  }

  void bind(const ParameterStore& store) override {
    gate_proj_ = store.weight(prefix_ + "gate_proj.weight");
    up_proj_ = store.weight(prefix_ + "up_proj.weight");
    down_proj_ = store.weight(prefix_ + "down_proj.weight");
  }

  void forward(Pass& pass, Tokens x, ConstTokens hidden, Tokens out) override {
    x_ = x;
    gate_ = pass.arena.tokens(pass.tokens(), gate_proj_.rows);
    up_ = pass.arena.tokens(pass.tokens(), up_proj_.rows);
    gated_ = pass.arena.tokens(pass.tokens(), up_proj_.rows);
    linear(pass, x, gate_proj_, {}, gate_);
    linear(pass, x, up_proj_, {}, up_);
    pass.backend.gated_sum({.y = up_, .o = {}, .gate = gate_}, gated_);
    linear(pass, gated_, down_proj_, hidden, out);
  }

  void backward(Pass& pass, ConstTokens d_out, Tokens dx) override {
    const Arena::Scope scope(pass.arena, pass.branches);
    const Tokens d_up = pass.arena.tokens(pass.tokens(), up_proj_.rows);
    const Tokens d_gate = pass.arena.tokens(pass.tokens(), gate_proj_.rows);
    linear_backward_weight(pass, gated_, down_proj_, d_out);
    linear_backward_input(pass, down_proj_, d_out, {}, d_up);
    pass.backend.gated_sum_backward({.y = up_, .o = {}, .gate = gate_}, d_up,
                                    {.y = d_up, .o = {}, .gate = d_gate});
    linear_backward_weight(pass, x_, gate_proj_, d_gate);
    linear_backward_weight(pass, x_, up_proj_, d_up);
    linear_backward_input(pass, gate_proj_, d_gate, {}, dx);
    linear_backward_input(pass, up_proj_, d_up, dx, dx);
  }

 private:
  std::string prefix_;
  Weight gate_proj_, up_proj_, down_proj_;

  Tokens x_, gate_, up_, gated_;
};

}  // namespace

std::unique_ptr<Transform> make_mlp(const ModelConfig& config, const std::string& prefix,
                                    ParameterStore& store) {
  return std::make_unique<SwigluMlp>(config, prefix, store);
}

}  // namespace joint_recall
