#include "model/head.hpp"

#include "model/linear.hpp"

namespace joint_recall {

Head::Head(const ModelConfig& config, ParameterStore& store)
    : epsilon_(static_cast<float>(config.layer_norm_epsilon)) {
  store.declare("backbone.norm_f.weight", {config.hidden_size});
}

void Head::bind(const ParameterStore& store, const Weight& embedding) {
  norm_ = store.weight("backbone.norm_f.weight");
  embedding_ = embedding;
}

void Head::forward(Pass& pass, ConstMatrix hidden, const AskedTokensOnDevice& asked) {
  rows_ = pass.arena.matrix(asked.count, hidden.columns);
  normed_ = pass.arena.matrix(asked.count, hidden.columns);
  logits_ = pass.arena.matrix(asked.count, embedding_.rows);
  pass.backend.gather_rows(hidden, asked.positions, rows_);
  pass.backend.rmsnorm(rows_, norm_.value, epsilon_, normed_);
  linear(pass, normed_, embedding_, 0.0f, logits_);
  pass.backend.cross_entropy(asked.targets, asked.scale, logits_, asked.loss, asked.prediction);
}

void Head::backward(Pass& pass, const AskedTokensOnDevice& asked, Matrix d_hidden) {
  const Arena::Scope scope(pass.arena);
  const Matrix d_rows = pass.arena.matrix(asked.count, d_hidden.columns);
  linear_backward(pass, normed_, embedding_, logits_, 0.0f, d_rows);
  pass.backend.rmsnorm_backward(rows_, norm_.value, epsilon_, d_rows, false, d_rows,
                                norm_.gradient);
  pass.backend.zero(d_hidden.data,
                    static_cast<size_t>(d_hidden.rows * d_hidden.columns) * sizeof(float));
  pass.backend.scatter_rows(d_rows, asked.positions, d_hidden);
}

}  // namespace joint_recall
