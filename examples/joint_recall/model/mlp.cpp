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

  void forward(Pass& pass, const NormedStream& in, Tokens out) override {
    x_ = pass.arena.tokens(pass.tokens(), gate_proj_.columns);
    gate_ = pass.arena.tokens(pass.tokens(), gate_proj_.rows);
    up_ = pass.arena.tokens(pass.tokens(), up_proj_.rows);
    gated_ = pass.arena.tokens(pass.tokens(), up_proj_.rows);
    pass.backend.norm_linear(in.hidden, in.norm(), nullptr, gate_proj_.matrix(), x_, gate_);
    linear(pass, x_, up_proj_, {}, up_);
    pass.backend.gated_linear({.y = up_, .o = {}, .gate = gate_}, {}, down_proj_.matrix(),
                              in.hidden, gated_, out);
  }

  void backward(Pass& pass, const NormedStream& in, ConstTokens d_out, Tokens d_hidden) override {
    const Arena::Scope scope(pass.arena, pass.branches);
    const Tokens d_up = pass.arena.tokens(pass.tokens(), up_proj_.rows);
    const Tokens d_gate = pass.arena.tokens(pass.tokens(), gate_proj_.rows);
    linear_backward_weight(pass, gated_, down_proj_, d_out);
    pass.backend.gated_linear_backward({.y = up_, .o = {}, .gate = gate_}, {}, down_proj_.matrix(),
                                       d_out, {.y = d_up, .o = {}, .gate = d_gate});
    linear_backward_weight(pass, x_, gate_proj_, d_gate);
    linear_backward_weight(pass, x_, up_proj_, d_up);
    const Tokens dx = pass.arena.tokens(pass.tokens(), x_.columns);
    linear_backward_input(pass, up_proj_, d_up, {}, dx);
    pass.backend.norm_linear_backward(in.hidden, in.norm(), nullptr, gate_proj_.matrix(), d_gate,
                                      dx, d_out, dx, d_hidden);
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
