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

HeadTerms Head::terms(Pass& pass, ConstMatrix hidden, const AskedTokensOnDevice& asked) const {
  HeadTerms terms;
  terms.count = asked.count;
  terms.stream = hidden;
  terms.positions = asked.positions;
  terms.targets = asked.targets;
  terms.norm = {norm_.value, epsilon_, norm_.gradient};
  terms.table = embedding_.matrix();
  terms.loss = asked.loss;
  terms.prediction = asked.prediction;
  terms.normed = pass.arena.tokens(asked.count, hidden.columns);
  terms.rows = pass.arena.matrix(asked.count, hidden.columns);
  terms.logits = pass.arena.matrix(asked.count, embedding_.rows);
  return terms;
}

void Head::score(Pass& pass, ConstMatrix hidden, const AskedTokensOnDevice& asked) {
  const Arena::Scope scope(pass.arena);
  pass.backend.head(terms(pass, hidden, asked));
}

void Head::train(Pass& pass, ConstMatrix hidden, const AskedTokensOnDevice& asked,
                 Tokens d_hidden) {
  const Arena::Scope scope(pass.arena, pass.branches);
  HeadTerms all = terms(pass, hidden, asked);
  all.scale = asked.scale;
  all.d_logits = pass.arena.tokens(asked.count, embedding_.rows);
  all.d_rows = pass.arena.tokens(asked.count, hidden.columns);
  all.d_stream = d_hidden;
  pass.backend.head(all);
  // On a branch that the embedding's own gradient waits for.
  pass.branch(Branch::kScores, [&] {
    const Matrix gradient = embedding_.gradient_matrix();
    pass.backend.gemm(true, false, all.d_logits, all.normed, gradient, gradient);
    pass.backend.finish_sums();
  });
}

}  // namespace joint_recall
