#include "attention/layer_attention/layer_attention.hpp"

namespace hax::layer_attention {
namespace {

// A compact tensor that passes between two operators and that the caller did not ask for. Its data only
// passes the checks; plan gives it an address.
class Inner {
 public:
  Inner(hax_device device, hax_data_type type, int64_t b, int64_t heads, int64_t length)
      : shape_{b, heads, length}, tensor_{&kStandIn, device, 3, type, shape_, nullptr, 0} {}
  Inner(const Inner&) = delete;
  Inner& operator=(const Inner&) = delete;

  const hax_tensor* tensor() const { return &tensor_; }
  const hax_tensor* unless(const hax_tensor* given) const { return given ? given : &tensor_; }

 private:
  alignas(8) static inline char kStandIn = 0;
  int64_t shape_[3];
  hax_tensor tensor_;
};

constexpr hax_data_type kFp32 = HAX_FP32, kInt32 = HAX_INT32, kInt64 = HAX_INT64;

struct Presence {
  const Checker& check;
  bool wanted;
  const char* reason;

  // Must be NULL unless wanted.
  void tensor(const hax_tensor* given, const char* name) const {
    check.expect(wanted || !given, name, ": expected NULL without ", reason, ", got a tensor");
  }
  // Must be 0 unless wanted.
  void number(int64_t value, const char* name) const {
    check.expect(wanted || value == 0, name, ": expected 0 without ", reason, ", got ", value);
  }
  void budget(int64_t value, const char* name) const {
    number(value, name);
    check.expect(!wanted || value >= 1, name, ": expected at least 1 with ", reason, ", got ",
                 value);
  }
};

Presence lsh_arguments(const Checker& check, uint32_t patterns) {
  return {check, (patterns & HAX_PATTERN_LSH) != 0, "HAX_PATTERN_LSH"};
}
Presence selection_arguments(const Checker& check, uint32_t patterns) {
  return {check, (patterns & HAX_PATTERN_KEY_SELECTION) != 0, "HAX_PATTERN_KEY_SELECTION"};
}

template <class Args>
hax_sparse_pattern pattern_of(const Args& args) {
  hax_sparse_pattern pattern = {};
  pattern.struct_size = sizeof pattern;
  pattern.patterns = args.patterns;
  pattern.window = args.window;
  pattern.sink = args.sink;
  pattern.dilation = args.dilation;
  return pattern;
}

template <class Args, class Score>
void set_scorer(const Args& args, Score& score) {
  score.q = args.q;
  score.k = args.k;
  score.W1 = args.W1;
  score.b1 = args.b1;
  score.W2 = args.W2;
  score.b2 = args.b2;
  score.W3 = args.W3;
  score.b3 = args.b3;
  score.cu_seqlens = args.cu_seqlens;
  score.max_seqlen = args.max_seqlen;
  score.k_scale = args.scale;
  score.normalization = args.normalization;
}

void check_presence(const Checker& check, const Forward::Args& args) {
  const Presence lsh = lsh_arguments(check, args.patterns);
  lsh.tensor(args.R, "R");
  lsh.tensor(args.key_order, "key_order");
  lsh.tensor(args.begin, "begin");
  lsh.tensor(args.end, "end");
  lsh.budget(args.lsh_budget, "lsh_budget");
  lsh.number(args.statistics, "statistics");

  const Presence selection = selection_arguments(check, args.patterns);
  selection.tensor(args.W1, "W1");
  selection.tensor(args.b1, "b1");
  selection.tensor(args.W2, "W2");
  selection.tensor(args.b2, "b2");
  selection.tensor(args.W3, "W3");
  selection.tensor(args.b3, "b3");
  selection.tensor(args.pick, "pick");
  selection.tensor(args.score, "score");
  selection.tensor(args.eviction, "eviction");
  selection.budget(args.selection_budget, "selection_budget");
  selection.number(args.normalization, "normalization");

  const Presence ranking = {check, args.pick != nullptr, "pick"};
  ranking.tensor(args.loss, "loss");
  ranking.tensor(args.target, "target");
}

void check_presence(const Checker& check, const Backward::Args& args) {
  const Presence lsh = lsh_arguments(check, args.patterns);
  lsh.tensor(args.key_order, "key_order");
  lsh.tensor(args.begin, "begin");
  lsh.tensor(args.end, "end");
  const Presence selection = selection_arguments(check, args.patterns);
  selection.tensor(args.eviction, "eviction");
  selection.tensor(args.dloss, "dloss");
  const Presence ranking = {check, args.dloss != nullptr, "dloss"};
  ranking.tensor(args.W1, "W1");
  ranking.tensor(args.b1, "b1");
  ranking.tensor(args.W2, "W2");
  ranking.tensor(args.b2, "b2");
  ranking.tensor(args.W3, "W3");
  ranking.tensor(args.b3, "b3");
  ranking.tensor(args.pick, "pick");
  ranking.tensor(args.score, "score");
  ranking.tensor(args.target, "target");
  ranking.tensor(args.dW1, "dW1");
  ranking.tensor(args.db1, "db1");
  ranking.tensor(args.dW2, "dW2");
  ranking.tensor(args.db2, "db2");
  ranking.tensor(args.dW3, "dW3");
  ranking.tensor(args.db3, "db3");
  ranking.number(args.normalization, "normalization");
}

// Batch, heads and tokens, as q and k have them.
struct Shapes {
  Axis batch{"B"}, length{"L"}, q_heads{"Hq"}, k_heads{"Hk"}, features{"N"};

  template <class Args>
  Shapes(Checker& check, const Args& args) {
    TypeSlot activation{"q"};
    check.input(args.q, "q", activation, {&batch, &length, &q_heads, &features});
    check.input(args.k, "k", activation, {&batch, &length, &k_heads, &features});
    if ((args.patterns & HAX_PATTERN_KEY_SELECTION) == 0) return;
    check.supported(q_heads.value == k_heads.value, "k: expected Hk=Hq=", q_heads.value,
                    " with HAX_PATTERN_KEY_SELECTION, got Hk=", k_heads.value);
  }
};

template <class Operation>
void set(Checker& check, Part<Operation>& part, typename Operation::Args& args) {
  args.struct_size = sizeof args;
  part.params = Operation::check(check, args);
  part.wanted = true;
}

}  // namespace

ForwardParams Forward::check(Checker& check, const Args& args) {
  check_presence(check, args);
  const Shapes s(check, args);
  const auto inner = [&](hax_data_type type, const Axis& heads) {
    return Inner(check.device(), type, s.batch.value, heads.value, s.length.value);
  };
  ForwardParams p = {};

  const Inner key_order = inner(kInt32, s.k_heads), begin = inner(kInt32, s.q_heads),
              end = inner(kInt32, s.q_heads), score = inner(kFp32, s.k_heads),
              eviction = inner(kInt32, s.k_heads);
  p.inner_order = !args.key_order;
  p.inner_begin = !args.begin;
  p.inner_end = !args.end;
  p.inner_score = !args.score;
  p.inner_eviction = !args.eviction;

  hax_sparse_pattern pattern = pattern_of(args);
  hax_sparse_attention_forward_args attend = {};
  attend.q = args.q;
  attend.k = args.k;
  attend.v = args.v;
  attend.cu_seqlens = args.cu_seqlens;
  attend.max_seqlen = args.max_seqlen;
  attend.o = args.o;
  attend.lse = args.lse;
  attend.pattern = &pattern;
  attend.scale = args.scale;

  if (lsh_arguments(check, args.patterns).wanted) {
    pattern.key_order = key_order.unless(args.key_order);
    pattern.begin = begin.unless(args.begin);
    pattern.end = end.unless(args.end);
  }
  if (selection_arguments(check, args.patterns).wanted) {
    pattern.eviction = eviction.unless(args.eviction);
  }
  set(check, p.attend, attend);

  if (lsh_arguments(check, args.patterns).wanted) {
    const Inner code_q = inner(kInt64, s.q_heads), code_k = inner(kInt64, s.k_heads);
    hax_lsh_hash_forward_args hash = {};
    hash.R = args.R;
    hash.cu_seqlens = args.cu_seqlens;
    hash.max_seqlen = args.max_seqlen;
    hash.statistics = args.statistics;
    hash.x = args.q;
    hash.code = code_q.tensor();
    set(check, p.hash_q, hash);
    hash.x = args.k;
    hash.code = code_k.tensor();
    set(check, p.hash_k, hash);

    hax_lsh_bucket_forward_args bucket = {};
    bucket.code_q = code_q.tensor();
    bucket.code_k = code_k.tensor();
    bucket.cu_seqlens = args.cu_seqlens;
    bucket.max_seqlen = args.max_seqlen;
    bucket.key_order = pattern.key_order;
    bucket.begin = pattern.begin;
    bucket.end = pattern.end;
    bucket.num_bits = static_cast<int32_t>(p.hash_q.params.bits);
    bucket.budget = args.lsh_budget;
    set(check, p.bucket, bucket);
  }

  if (selection_arguments(check, args.patterns).wanted) {
    hax_key_score_forward_args scorer = {};
    set_scorer(args, scorer);
    scorer.score = score.unless(args.score);
    set(check, p.score, scorer);

    hax_key_select_forward_args select = {};
    select.score = scorer.score;
    select.cu_seqlens = args.cu_seqlens;
    select.max_seqlen = args.max_seqlen;
    select.eviction = pattern.eviction;
    select.budget = args.selection_budget;
    set(check, p.select, select);

    if (args.pick) {
      hax_ranking_loss_forward_args rank = {};
      rank.q = args.q;
      rank.k = args.k;
      rank.score = scorer.score;
      rank.pick = args.pick;
      rank.cu_seqlens = args.cu_seqlens;
      rank.loss = args.loss;
      rank.target = args.target;
      rank.k_scale = args.scale;
      set(check, p.rank, rank);
    }
  }
  return p;
}

BackwardParams Backward::check(Checker& check, const Args& args) {
  check_presence(check, args);
  const Shapes s(check, args);
  BackwardParams p = {};

  hax_sparse_pattern pattern = pattern_of(args);
  pattern.key_order = args.key_order;
  pattern.begin = args.begin;
  pattern.end = args.end;
  pattern.eviction = args.eviction;
  hax_sparse_attention_backward_args attend = {};
  attend.q = args.q;
  attend.k = args.k;
  attend.v = args.v;
  attend.cu_seqlens = args.cu_seqlens;
  attend.max_seqlen = args.max_seqlen;
  attend.o = args.o;
  attend.lse = args.lse;
  attend.d_o = args.d_o;
  attend.dlse = args.dlse;
  attend.dq = args.dq;
  attend.dk = args.dk;
  attend.dv = args.dv;
  attend.pattern = &pattern;
  attend.scale = args.scale;
  attend.deterministic = args.deterministic;
  set(check, p.attend, attend);
  if (!args.dloss) return p;

  const Inner dscore(check.device(), kFp32, s.batch.value, s.k_heads.value, s.length.value);
  hax_ranking_loss_backward_args rank = {};
  rank.score = args.score;
  rank.pick = args.pick;
  rank.target = args.target;
  rank.cu_seqlens = args.cu_seqlens;
  rank.dloss = args.dloss;
  rank.dscore = dscore.tensor();
  set(check, p.rank, rank);

  hax_key_score_backward_args scorer = {};
  set_scorer(args, scorer);
  scorer.dscore = dscore.tensor();
  scorer.dW1 = args.dW1;
  scorer.db1 = args.db1;
  scorer.dW2 = args.dW2;
  scorer.db2 = args.db2;
  scorer.dW3 = args.dW3;
  scorer.db3 = args.db3;
  scorer.deterministic = args.deterministic;
  set(check, p.score, scorer);
  return p;
}

}  // namespace hax::layer_attention
