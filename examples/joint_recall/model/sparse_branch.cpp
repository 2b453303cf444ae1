#include "model/sparse_branch.hpp"

#include <cmath>

#include "model/linear.hpp"
#include "model/operands.hpp"

namespace joint_recall {
namespace {

int32_t hax_statistics(HashStatistics statistics) {
  switch (statistics) {
    case HashStatistics::kNone: return HAX_LSH_STATISTICS_NONE;
    case HashStatistics::kSequence: return HAX_LSH_STATISTICS_SEQUENCE;
    case HashStatistics::kCausal: break;
  }
  return HAX_LSH_STATISTICS_CAUSAL;
}

}  // namespace

SparseBranch::SparseBranch(const ModelConfig& config, int64_t layer, const std::string& prefix,
                           ParameterStore& store)
    : prefix_(prefix + "."),
      layer_(layer),
      patterns_(config.sparse_arch.patterns),
      budget_(static_cast<int32_t>(config.keys_per_pattern())),
      dilation_(static_cast<int32_t>(config.dilation())),
      channels_(config.intermediate_size()),
      state_size_(config.state_size),
      num_hash_(static_cast<int32_t>(config.num_hash)),
      statistics_(hax_statistics(config.statistics)),
      key_score_norm_(config.key_score_norm == KeyScoreNorm::kFeature
                          ? HAX_KEY_SCORE_NORM_FEATURE
                          : HAX_KEY_SCORE_NORM_SEQUENCE),
      fixed_hash_(config.hash_redraw == HashRedraw::kOnce) {
  if (!present()) return;
  const int64_t width = 2 * state_size_;
  store.declare(prefix_ + "xx_proj.weight", {width, channels_});
  store.declare(prefix_ + "E", {channels_});
  if (config.sparse_arch.has(HAX_PATTERN_KEY_SELECTION)) {
    store.declare(prefix_ + "dx_proj_1.weight", {width, width});
    store.declare(prefix_ + "dx_proj_1.bias", {width});
    store.declare(prefix_ + "dx_proj_2.weight", {width, width});
    store.declare(prefix_ + "dx_proj_2.bias", {width});
    store.declare(prefix_ + "dx_proj_3.weight", {1, width});
    store.declare(prefix_ + "dx_proj_3.bias", {1});
  }
  if (config.sparse_arch.has(HAX_PATTERN_LSH) && fixed_hash_) {
    store.declare(prefix_ + "hash_projection", {state_size_, num_hash_}, false);
  }
}

void SparseBranch::bind(const ParameterStore& store) {
  if (!present()) return;
  xx_proj_ = store.weight(prefix_ + "xx_proj.weight");
  E_ = store.weight(prefix_ + "E");
  if ((patterns_ & HAX_PATTERN_KEY_SELECTION) != 0) {
    W1_ = store.weight(prefix_ + "dx_proj_1.weight");
    b1_ = store.weight(prefix_ + "dx_proj_1.bias");
    W2_ = store.weight(prefix_ + "dx_proj_2.weight");
    b2_ = store.weight(prefix_ + "dx_proj_2.bias");
    W3_ = store.weight(prefix_ + "dx_proj_3.weight");
    b3_ = store.weight(prefix_ + "dx_proj_3.bias");
  }
  hash_projection_ = store.weight_if_declared(prefix_ + "hash_projection");
}

void SparseBranch::prepare(Pass& pass) {
  R_ = hash_projection_.value;
  if ((patterns_ & HAX_PATTERN_LSH) != 0 && !fixed_hash_) {
    pass.branch(Branch::kAttention, [&] {
      const Matrix drawn = pass.arena.matrix(state_size_, num_hash_);
      pass.draws.hash_projection(layer_, drawn);
      R_ = drawn.data;
    });
  }
  ranking_ = {};
  if ((patterns_ & HAX_PATTERN_KEY_SELECTION) == 0 || !pass.training) return;
  pass.branch(Branch::kRanking, [&] {
    ranking_.pick = pass.arena.take<int32_t>(pass.sequences * budget_);
    const Arena::Scope scope(pass.arena);
    auto* noise = pass.arena.take<float>(pass.tokens());
    pass.draws.ranking_noise(layer_, pass.tokens(), noise);
    pass.backend.top_positions(noise, pass.attention_mask, pass.cu_seqlens, pass.items,
                               pass.sequences, pass.length, budget_, ranking_.pick);
  });
}

void SparseBranch::forward(Pass& pass, ConstTokens x) {
  pass.branch(Branch::kAttention, [&] {
    kq_ = pass.arena.tokens(pass.tokens(), 2 * state_size_);
    linear(pass, x, xx_proj_, {}, kq_);

    attention_ = {};
    attention_.scale = 1.0f / std::sqrt(static_cast<float>(state_size_));
    attention_.k = kq_.slice(0, state_size_);
    attention_.q = kq_.slice(state_size_, state_size_);
    attention_.v = x;
    attention_.o = pass.arena.tokens(pass.tokens(), channels_);
    attention_.lse = pass.arena.take<float>(pass.tokens());

    KeyPatterns& keys = attention_.keys;
    keys.patterns = patterns_;
    if ((patterns_ & HAX_PATTERN_SLIDING_WINDOW) != 0) keys.window = budget_;
    if ((patterns_ & HAX_PATTERN_SINK) != 0) keys.sink = budget_;
    if ((patterns_ & HAX_PATTERN_DILATED) != 0) keys.dilation = dilation_;
    const bool scores = (patterns_ & HAX_PATTERN_KEY_SELECTION) != 0;
    if (scores) pass.branch(Branch::kScores, [&] { choose_by_score(pass); });
    if ((patterns_ & HAX_PATTERN_LSH) != 0) choose_by_hash(pass);
    if (scores) pass.join(Branch::kScores);
    // The ranking loss is no part of the activations' way: its gradient is there as soon as itself.
    if (scores && pass.training) {
      pass.branch(Branch::kRanking, [&] {
        rank(pass);
        rank_backward(pass);
      });
    }
    attend(pass, attention_);
  });
}

void SparseBranch::choose_by_hash(Pass& pass) {
  auto* key_order = pass.arena.take<int32_t>(pass.tokens());
  auto* begin = pass.arena.take<int32_t>(pass.tokens());
  auto* end = pass.arena.take<int32_t>(pass.tokens());

  const Arena::Scope scope(pass.arena);
  auto* codes = pass.arena.take<int64_t>(2 * pass.tokens());
  {
    // Keys and queries lie side by side, as two heads would.
    Operands operands(pass);
    hax_lsh_hash_forward_args args = {};
    args.struct_size = sizeof args;
    args.x = operands.in(kq_, {2, state_size_});
    args.R = operands.fp32(R_, {state_size_, num_hash_});
    args.cu_seqlens = operands.cu_seqlens();
    args.max_seqlen = pass.max_seqlen;
    args.code = operands.int64(codes, {pass.batch, 2, pass.length});
    args.statistics = statistics_;
    operands.run("lsh_hash_forward", hax_lsh_hash_forward_workspace, hax_lsh_hash_forward, args);
  }
  Operands operands(pass);
  hax_lsh_bucket_forward_args args = {};
  args.struct_size = sizeof args;
  args.code_q = operands.int64_head(codes, 1, 2);
  args.code_k = operands.int64_head(codes, 0, 2);
  args.cu_seqlens = operands.cu_seqlens();
  args.max_seqlen = pass.max_seqlen;
  args.key_order = operands.int32(key_order, {pass.batch, 1, pass.length});
  args.begin = operands.int32(begin, {pass.batch, 1, pass.length});
  args.end = operands.int32(end, {pass.batch, 1, pass.length});
  args.num_bits = num_hash_;
  args.budget = budget_;
  operands.run("lsh_bucket_forward", hax_lsh_bucket_forward_workspace, hax_lsh_bucket_forward,
               args);
  attention_.keys.key_order = key_order;
  attention_.keys.begin = begin;
  attention_.keys.end = end;
}

void SparseBranch::choose_by_score(Pass& pass) {
  ranking_.score = pass.arena.take<float>(pass.tokens());
  auto* eviction = pass.arena.take<int32_t>(pass.tokens());
  const int64_t N = state_size_;
  {
    Operands operands(pass);
    hax_key_score_forward_args args = {};
    args.struct_size = sizeof args;
    args.q = operands.in(attention_.q, {1, N});
    args.k = operands.in(attention_.k, {1, N});
    args.W1 = operands.fp32(W1_.value, {2 * N, 2 * N});
    args.b1 = operands.fp32(b1_.value, {2 * N});
    args.W2 = operands.fp32(W2_.value, {2 * N, 2 * N});
    args.b2 = operands.fp32(b2_.value, {2 * N});
    args.W3 = operands.fp32(W3_.value, {1, 2 * N});
    args.b3 = operands.fp32(b3_.value, {1});
    args.cu_seqlens = operands.cu_seqlens();
    args.max_seqlen = pass.max_seqlen;
    args.score = operands.fp32(ranking_.score, {pass.batch, 1, pass.length});
    args.k_scale = attention_.scale;
    args.normalization = key_score_norm_;
    operands.run("key_score_forward", hax_key_score_forward_workspace, hax_key_score_forward, args);
  }
  Operands operands(pass);
  hax_key_select_forward_args args = {};
  args.struct_size = sizeof args;
  args.score = operands.fp32(ranking_.score, {pass.batch, 1, pass.length});
  args.cu_seqlens = operands.cu_seqlens();
  args.max_seqlen = pass.max_seqlen;
  args.eviction = operands.int32(eviction, {pass.batch, 1, pass.length});
  args.budget = budget_;
  operands.run("key_select_forward", hax_key_select_forward_workspace, hax_key_select_forward,
               args);
  attention_.keys.eviction = eviction;
}

void SparseBranch::rank(Pass& pass) {
  ranking_.target = pass.arena.take<float>(pass.sequences * budget_);
  ranking_.loss = pass.arena.take<float>(1);
  Operands operands(pass);
  hax_ranking_loss_forward_args args = {};
  args.struct_size = sizeof args;
  args.q = operands.in(attention_.q, {1, state_size_});
  args.k = operands.in(attention_.k, {1, state_size_});
  args.score = operands.fp32(ranking_.score, {pass.batch, 1, pass.length});
  args.pick = operands.int32(ranking_.pick, {pass.sequences, 1, budget_});
  args.cu_seqlens = operands.cu_seqlens();
  args.loss = operands.fp32(ranking_.loss, {1});
  args.target = operands.fp32(ranking_.target, {pass.sequences, 1, budget_});
  args.k_scale = attention_.scale;
  operands.run("ranking_loss_forward", hax_ranking_loss_forward_workspace, hax_ranking_loss_forward,
               args);
}

void SparseBranch::rank_backward(Pass& pass) {
  const Arena::Scope scope(pass.arena);
  const int64_t N = state_size_;
  auto* dscore = pass.arena.take<float>(pass.tokens());
  {
    Operands operands(pass);
    hax_ranking_loss_backward_args args = {};
    args.struct_size = sizeof args;
    args.score = operands.fp32(ranking_.score, {pass.batch, 1, pass.length});
    args.pick = operands.int32(ranking_.pick, {pass.sequences, 1, budget_});
    args.target = operands.fp32(ranking_.target, {pass.sequences, 1, budget_});
    args.cu_seqlens = operands.cu_seqlens();
    args.dloss = operands.fp32(pass.dgate_loss, {1});
    args.dscore = operands.fp32(dscore, {pass.batch, 1, pass.length});
    operands.run("ranking_loss_backward", hax_ranking_loss_backward_workspace,
                 hax_ranking_loss_backward, args);
  }
  Operands operands(pass);
  hax_key_score_backward_args args = {};
  args.struct_size = sizeof args;
  args.q = operands.in(attention_.q, {1, N});
  args.k = operands.in(attention_.k, {1, N});
  args.W1 = operands.fp32(W1_.value, {2 * N, 2 * N});
  args.b1 = operands.fp32(b1_.value, {2 * N});
  args.W2 = operands.fp32(W2_.value, {2 * N, 2 * N});
  args.b2 = operands.fp32(b2_.value, {2 * N});
  args.W3 = operands.fp32(W3_.value, {1, 2 * N});
  args.b3 = operands.fp32(b3_.value, {1});
  args.cu_seqlens = operands.cu_seqlens();
  args.max_seqlen = pass.max_seqlen;
  args.dscore = operands.fp32(dscore, {pass.batch, 1, pass.length});
  args.dW1 = operands.gradient(W1_, {2 * N, 2 * N});
  args.db1 = operands.gradient(b1_, {2 * N});
  args.dW2 = operands.gradient(W2_, {2 * N, 2 * N});
  args.db2 = operands.gradient(b2_, {2 * N});
  args.dW3 = operands.gradient(W3_, {1, 2 * N});
  args.db3 = operands.gradient(b3_, {1});
  args.k_scale = attention_.scale;
  args.normalization = key_score_norm_;
  args.deterministic = 1;
  operands.run("key_score_backward", hax_key_score_backward_workspace, hax_key_score_backward,
               args);
}

void SparseBranch::backward(Pass& pass, ConstTokens d_o) {
  dkq_ = pass.arena.tokens(pass.tokens(), 2 * state_size_);
  dv_ = pass.arena.tokens(pass.tokens(), channels_);
  pass.branch(Branch::kAttention, [&] {
    attend_backward(pass, attention_, d_o, dkq_.slice(state_size_, state_size_),
                    dkq_.slice(0, state_size_), dv_);
    linear_backward_input(pass, xx_proj_, dkq_, dv_, dv_);
  });
}

void SparseBranch::add_gradient(Pass& pass, ConstTokens x, Tokens dx) {
  join(pass);
  linear_backward_weight(pass, x, xx_proj_, dkq_);
  pass.backend.add(dv_, dx);
}

}  // namespace joint_recall
