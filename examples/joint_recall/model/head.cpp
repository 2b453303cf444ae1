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
  normed_ = pass.arena.tokens(asked.count, hidden.columns);
  d_logits_ = pass.training ? pass.arena.tokens(asked.count, embedding_.rows) : Tokens{};
  const Arena::Scope scope(pass.arena);
  const Matrix logits = pass.arena.matrix(asked.count, embedding_.rows);
  pass.backend.gather_rows(hidden, asked.positions, rows_);
  pass.backend.rmsnorm(rows_, norm_.value, epsilon_, normed_);
  linear(pass, normed_, embedding_, {}, logits);
  pass.backend.cross_entropy(asked.targets, asked.scale, logits, asked.loss, asked.prediction,
                             d_logits_);
}

void Head::backward(Pass& pass, const AskedTokensOnDevice& asked, Tokens d_hidden) {
  const Arena::Scope scope(pass.arena, pass.branches);
  const Tokens d_rows = pass.arena.tokens(asked.count, d_hidden.columns);
  linear_backward_weight(pass, normed_, embedding_, d_logits_);
  linear_backward_input(pass, embedding_, d_logits_, {}, d_rows);
  pass.backend.rmsnorm_backward(rows_, norm_.value, epsilon_, d_rows, {}, d_rows, norm_.gradient);
  pass.backend.zero(d_hidden.data, static_cast<size_t>(d_hidden.rows * d_hidden.stride *
                                                       bytes_of(d_hidden.element)));
  pass.backend.scatter_rows(d_rows, asked.positions, d_hidden);
}

}  // namespace joint_recall
