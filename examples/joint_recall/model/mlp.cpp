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

  void forward(Pass& pass, Matrix x, Matrix out) override {
    x_ = x;
    gate_ = pass.arena.matrix(pass.tokens(), gate_proj_.rows);
    up_ = pass.arena.matrix(pass.tokens(), up_proj_.rows);
    gated_ = pass.arena.matrix(pass.tokens(), up_proj_.rows);
    linear(pass, x, gate_proj_, 0.0f, gate_);
    linear(pass, x, up_proj_, 0.0f, up_);
    pass.backend.gated_sum(up_, {}, nullptr, gate_, gated_);
    linear(pass, gated_, down_proj_, 1.0f, out);
  }

  void backward(Pass& pass, ConstMatrix d_out, Matrix dx) override {
    const Arena::Scope scope(pass.arena);
    const Matrix d_up = pass.arena.matrix(pass.tokens(), up_proj_.rows);
    const Matrix d_gate = pass.arena.matrix(pass.tokens(), gate_proj_.rows);
    linear_backward(pass, gated_, down_proj_, d_out, 0.0f, d_up);
    pass.backend.gated_sum_backward(up_, {}, nullptr, gate_, d_up, d_up, {}, d_gate, nullptr);
    linear_backward(pass, x_, gate_proj_, d_gate, 0.0f, dx);
    linear_backward(pass, x_, up_proj_, d_up, 1.0f, dx);
  }

 private:
  std::string prefix_;
  Weight gate_proj_, up_proj_, down_proj_;

  Matrix x_, gate_, up_, gated_;
};

}  // namespace

std::unique_ptr<Transform> make_mlp(const ModelConfig& config, const std::string& prefix,
                                    ParameterStore& store) {
  return std::make_unique<SwigluMlp>(config, prefix, store);
}

}  // namespace joint_recall
