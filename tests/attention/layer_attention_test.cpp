// The whole call against the operators that it consists of, called one by one, each of which has tests
// against an oracle: the same arithmetic in the same order, so the same bits.
#include <algorithm>
#include <functional>
#include <numeric>
#include <random>

#include "support/comparator.hpp"
#include "support/tensor_builder.hpp"

namespace hax_test {
namespace {

constexpr uint32_t kHax = HAX_PATTERN_LSH | HAX_PATTERN_KEY_SELECTION;
constexpr uint32_t kAll =
    kHax | HAX_PATTERN_SLIDING_WINDOW | HAX_PATTERN_SINK | HAX_PATTERN_DILATED;

struct LayerCase {
  int64_t batch = 2, length = 75, q_heads = 2, k_heads = 2, features = 8, d_v = 12, picks = 6;
  uint32_t patterns = kHax;
  int32_t statistics = HAX_LSH_STATISTICS_SEQUENCE;
  int32_t normalization = HAX_KEY_SCORE_NORM_FEATURE;
  std::vector<int64_t> cu_seqlens = {};
  hax_data_type type = kFp32;
  Layout layout = Layout::compact;

  bool has(uint32_t bit) const { return (patterns & bit) != 0; }
  int64_t sequences() const {
    return cu_seqlens.empty() ? batch : static_cast<int64_t>(cu_seqlens.size()) - 1;
  }
};

std::string describe(const LayerCase& c) {
  return "L=" + std::to_string(c.length) + " Hq=" + std::to_string(c.q_heads) +
         " Hk=" + std::to_string(c.k_heads) + " patterns " + std::to_string(c.patterns) +
         " statistics " + std::to_string(c.statistics) + " " + name_of(c.type) + " " +
         name_of(c.layout) + (c.cu_seqlens.empty() ? "" : " packed");
}

// Distinct positions of each (sequence, head), some entries unused.
Argument random_picks(const LayerCase& c) {
  std::mt19937_64 engine(5);
  Array picks({c.sequences(), c.k_heads, c.picks});
  for (int64_t s = 0; s < c.sequences(); ++s) {
    const auto i = static_cast<size_t>(s);
    const int64_t length = c.cu_seqlens.empty() ? c.length : c.cu_seqlens[i + 1] - c.cu_seqlens[i];
    for (int64_t h = 0; h < c.k_heads; ++h) {
      std::vector<int64_t> positions(static_cast<size_t>(length));
      std::iota(positions.begin(), positions.end(), 0);
      std::shuffle(positions.begin(), positions.end(), engine);
      for (int64_t m = 0; m < c.picks; ++m) {
        const bool used = m < length && m != 2;
        picks.at(s, h, m) = used ? static_cast<double>(positions[static_cast<size_t>(m)]) : -1.0;
      }
    }
  }
  return Argument::input(picks, kInt32);
}

// All tensors a case can need; those that it doesn't are absent.
struct LayerTensors {
  explicit LayerTensors(const LayerCase& c) {
    const auto in = [&](std::vector<int64_t> shape, hax_data_type type, double scale = 1.0) {
      Array values = random_normal(shape, seed_++);
      for (double& value : values.data) value *= scale;
      return Argument::input(values, type, c.layout);
    };
    const auto out = [&](bool wanted, std::vector<int64_t> shape, hax_data_type type) {
      return wanted ? Argument::output(shape, type, c.layout) : Argument();
    };
    const std::vector<int64_t> of_q = {c.batch, c.q_heads, c.length};
    const std::vector<int64_t> of_k = {c.batch, c.k_heads, c.length};
    const std::vector<int64_t> q_shape = {c.batch, c.length, c.q_heads, c.features};
    const std::vector<int64_t> k_shape = {c.batch, c.length, c.k_heads, c.features};
    const std::vector<int64_t> v_shape = {c.batch, c.length, c.k_heads, c.d_v};
    const std::vector<int64_t> o_shape = {c.batch, c.length, c.q_heads, c.d_v};
    const bool lsh = c.has(HAX_PATTERN_LSH), selection = c.has(HAX_PATTERN_KEY_SELECTION);
    const bool ranking = selection && c.picks > 0;
    const int64_t width = 2 * c.features;
    q = in(q_shape, c.type);
    k = in(k_shape, c.type);
    v = in(v_shape, c.type);
    d_o = in(o_shape, c.type);
    dlse = in(of_q, kFp32);
    if (!c.cu_seqlens.empty()) cu_seqlens = Argument::indices(c.cu_seqlens);
    if (lsh) R = in({c.features, 5}, kFp32);
    if (selection) {
      W1 = in({width, width}, c.type, 0.3);
      b1 = in({width}, kFp32);
      W2 = in({width, width}, c.type, 0.3);
      b2 = in({width}, kFp32);
      W3 = in({1, width}, c.type);
      b3 = in({1}, kFp32);
    }
    if (ranking) pick = random_picks(c);
    if (ranking) dloss = in({1}, kFp32);

    o = out(true, o_shape, c.type);
    lse = out(true, of_q, kFp32);
    key_order = out(lsh, of_k, kInt32);
    begin = out(lsh, of_q, kInt32);
    end = out(lsh, of_q, kInt32);
    code_q = out(lsh, of_q, kInt64);
    code_k = out(lsh, of_k, kInt64);
    score = out(selection, of_k, kFp32);
    dscore = out(ranking, of_k, kFp32);
    eviction = out(selection, of_k, kInt32);
    loss = out(ranking, {1}, kFp32);
    target = out(ranking, {c.sequences(), c.k_heads, c.picks}, kFp32);
    dq = out(true, q_shape, c.type);
    dk = out(true, k_shape, c.type);
    dv = out(true, v_shape, c.type);
    dW1 = out(ranking, {width, width}, kFp32);
    db1 = out(ranking, {width}, kFp32);
    dW2 = out(ranking, {width, width}, kFp32);
    db2 = out(ranking, {width}, kFp32);
    dW3 = out(ranking, {1, width}, kFp32);
    db3 = out(ranking, {1}, kFp32);
  }

  Argument q, k, v, cu_seqlens, R, W1, b1, W2, b2, W3, b3, pick, d_o, dlse, dloss;
  Argument o, lse, key_order, begin, end, code_q, code_k, score, dscore, eviction, loss, target;
  Argument dq, dk, dv, dW1, db1, dW2, db2, dW3, db3;

 private:
  uint64_t seed_ = 40;
};

constexpr float kScale = 0.35f;
constexpr int32_t kLshBudget = 5, kSelectionBudget = 7, kWindow = 4, kSink = 2, kDilation = 6;

template <class Args>
void set_pattern_numbers(const LayerCase& c, Args& args) {
  args.patterns = c.patterns;
  args.window = c.has(HAX_PATTERN_SLIDING_WINDOW) ? kWindow : 0;
  args.sink = c.has(HAX_PATTERN_SINK) ? kSink : 0;
  args.dilation = c.has(HAX_PATTERN_DILATED) ? kDilation : 0;
}

template <class Args>
void set_scorer(const LayerTensors& t, Args& args) {
  args.W1 = t.W1.arg();
  args.b1 = t.b1.arg();
  args.W2 = t.W2.arg();
  args.b2 = t.b2.arg();
  args.W3 = t.W3.arg();
  args.b3 = t.b3.arg();
}

hax_layer_attention_forward_args forward_args(const LayerCase& c, const LayerTensors& t) {
  hax_layer_attention_forward_args args = {};
  args.struct_size = sizeof args;
  args.q = t.q.arg();
  args.k = t.k.arg();
  args.v = t.v.arg();
  args.cu_seqlens = t.cu_seqlens.arg();
  args.R = t.R.arg();
  set_scorer(t, args);
  args.pick = t.pick.arg();
  args.o = t.o.arg();
  args.lse = t.lse.arg();
  args.key_order = t.key_order.arg();
  args.begin = t.begin.arg();
  args.end = t.end.arg();
  args.score = t.score.arg();
  args.eviction = t.eviction.arg();
  args.loss = t.loss.arg();
  args.target = t.target.arg();
  set_pattern_numbers(c, args);
  if (c.has(HAX_PATTERN_LSH)) {
    args.lsh_budget = kLshBudget;
    args.statistics = c.statistics;
  }
  if (c.has(HAX_PATTERN_KEY_SELECTION)) {
    args.selection_budget = kSelectionBudget;
    args.normalization = c.normalization;
  }
  args.scale = kScale;
  return args;
}

hax_layer_attention_backward_args backward_args(const LayerCase& c, const LayerTensors& t) {
  hax_layer_attention_backward_args args = {};
  args.struct_size = sizeof args;
  args.q = t.q.arg();
  args.k = t.k.arg();
  args.v = t.v.arg();
  args.cu_seqlens = t.cu_seqlens.arg();
  args.o = t.o.arg();
  args.lse = t.lse.arg();
  args.key_order = t.key_order.arg();
  args.begin = t.begin.arg();
  args.end = t.end.arg();
  args.eviction = t.eviction.arg();
  args.d_o = t.d_o.arg();
  args.dlse = t.dlse.arg();
  args.dq = t.dq.arg();
  args.dk = t.dk.arg();
  args.dv = t.dv.arg();
  set_pattern_numbers(c, args);
  args.scale = kScale;
  args.deterministic = 1;
  if (!t.dloss.present()) return args;
  set_scorer(t, args);
  args.pick = t.pick.arg();
  args.score = t.score.arg();
  args.target = t.target.arg();
  args.dloss = t.dloss.arg();
  args.dW1 = t.dW1.arg();
  args.db1 = t.db1.arg();
  args.dW2 = t.dW2.arg();
  args.db2 = t.db2.arg();
  args.dW3 = t.dW3.arg();
  args.db3 = t.db3.arg();
  args.normalization = c.normalization;
  return args;
}

hax_sparse_pattern pattern_of(const LayerCase& c, const LayerTensors& t) {
  hax_sparse_pattern pattern = {};
  pattern.struct_size = sizeof pattern;
  set_pattern_numbers(c, pattern);
  pattern.key_order = t.key_order.arg();
  pattern.begin = t.begin.arg();
  pattern.end = t.end.arg();
  pattern.eviction = t.eviction.arg();
  return pattern;
}

void hash_one_by_one(const LayerCase& c, const LayerTensors& t, const hax_context* context) {
  hax_lsh_hash_forward_args hash = {};
  hash.R = t.R.arg();
  hash.cu_seqlens = t.cu_seqlens.arg();
  hash.statistics = c.statistics;
  hash.x = t.q.arg();
  hash.code = t.code_q.arg();
  HAX_RUN(lsh_hash_forward, context, hash);
  hash.x = t.k.arg();
  hash.code = t.code_k.arg();
  HAX_RUN(lsh_hash_forward, context, hash);
  hax_lsh_bucket_forward_args bucket = {};
  bucket.code_q = t.code_q.arg();
  bucket.code_k = t.code_k.arg();
  bucket.cu_seqlens = t.cu_seqlens.arg();
  bucket.key_order = t.key_order.arg();
  bucket.begin = t.begin.arg();
  bucket.end = t.end.arg();
  bucket.num_bits = 5;
  bucket.budget = kLshBudget;
  HAX_RUN(lsh_bucket_forward, context, bucket);
}

template <class Args>
void set_score_inputs(const LayerCase& c, const LayerTensors& t, Args& args) {
  args.q = t.q.arg();
  args.k = t.k.arg();
  set_scorer(t, args);
  args.cu_seqlens = t.cu_seqlens.arg();
  args.k_scale = kScale;
  args.normalization = c.normalization;
}

void select_one_by_one(const LayerCase& c, const LayerTensors& t, const hax_context* context) {
  hax_key_score_forward_args scorer = {};
  set_score_inputs(c, t, scorer);
  scorer.score = t.score.arg();
  HAX_RUN(key_score_forward, context, scorer);
  hax_key_select_forward_args select = {};
  select.score = t.score.arg();
  select.cu_seqlens = t.cu_seqlens.arg();
  select.eviction = t.eviction.arg();
  select.budget = kSelectionBudget;
  HAX_RUN(key_select_forward, context, select);
  if (!t.pick.present()) return;
  hax_ranking_loss_forward_args rank = {};
  rank.q = t.q.arg();
  rank.k = t.k.arg();
  rank.score = t.score.arg();
  rank.pick = t.pick.arg();
  rank.cu_seqlens = t.cu_seqlens.arg();
  rank.loss = t.loss.arg();
  rank.target = t.target.arg();
  rank.k_scale = kScale;
  HAX_RUN(ranking_loss_forward, context, rank);
}

void forward_one_by_one(const LayerCase& c, const LayerTensors& t, const hax_context* context) {
  if (c.has(HAX_PATTERN_LSH)) hash_one_by_one(c, t, context);
  if (c.has(HAX_PATTERN_KEY_SELECTION)) select_one_by_one(c, t, context);
  const hax_sparse_pattern pattern = pattern_of(c, t);
  hax_sparse_attention_forward_args attend = {};
  attend.q = t.q.arg();
  attend.k = t.k.arg();
  attend.v = t.v.arg();
  attend.cu_seqlens = t.cu_seqlens.arg();
  attend.o = t.o.arg();
  attend.lse = t.lse.arg();
  attend.pattern = &pattern;
  attend.scale = kScale;
  HAX_RUN(sparse_attention_forward, context, attend);
}

void backward_one_by_one(const LayerCase& c, const LayerTensors& t, const hax_context* context) {
  const hax_sparse_pattern pattern = pattern_of(c, t);
  hax_sparse_attention_backward_args attend = {};
  attend.q = t.q.arg();
  attend.k = t.k.arg();
  attend.v = t.v.arg();
  attend.cu_seqlens = t.cu_seqlens.arg();
  attend.o = t.o.arg();
  attend.lse = t.lse.arg();
  attend.d_o = t.d_o.arg();
  attend.dlse = t.dlse.arg();
  attend.dq = t.dq.arg();
  attend.dk = t.dk.arg();
  attend.dv = t.dv.arg();
  attend.pattern = &pattern;
  attend.scale = kScale;
  attend.deterministic = 1;
  HAX_RUN(sparse_attention_backward, context, attend);
  if (!t.dloss.present()) return;
  hax_ranking_loss_backward_args rank = {};
  rank.score = t.score.arg();
  rank.pick = t.pick.arg();
  rank.target = t.target.arg();
  rank.cu_seqlens = t.cu_seqlens.arg();
  rank.dloss = t.dloss.arg();
  rank.dscore = t.dscore.arg();
  HAX_RUN(ranking_loss_backward, context, rank);
  hax_key_score_backward_args scorer = {};
  set_score_inputs(c, t, scorer);
  scorer.dscore = t.dscore.arg();
  scorer.dW1 = t.dW1.arg();
  scorer.db1 = t.db1.arg();
  scorer.dW2 = t.dW2.arg();
  scorer.db2 = t.db2.arg();
  scorer.dW3 = t.dW3.arg();
  scorer.db3 = t.db3.arg();
  scorer.deterministic = 1;
  HAX_RUN(key_score_backward, context, scorer);
}

void expect_same(const char* name, const Argument& got, const Argument& want) {
  ASSERT_EQ(got.present(), want.present()) << name;
  if (!got.present()) return;
  EXPECT_TRUE(got.sentinels_intact()) << name;
  EXPECT_EQ(first_mask_mismatch(got.array(), want.array()), -1) << name;
  EXPECT_EQ(difference(got.array(), want.array()).worst, -1) << name;
}

void expect_same_forward(const LayerTensors& got, const LayerTensors& want) {
  expect_same("o", got.o, want.o);
  expect_same("lse", got.lse, want.lse);
  expect_same("key_order", got.key_order, want.key_order);
  expect_same("begin", got.begin, want.begin);
  expect_same("end", got.end, want.end);
  expect_same("score", got.score, want.score);
  expect_same("eviction", got.eviction, want.eviction);
  expect_same("loss", got.loss, want.loss);
  expect_same("target", got.target, want.target);
}

void expect_whole_equals_parts(const LayerCase& c) {
  SCOPED_TRACE(describe(c));
  const TestContext context;
  const LayerTensors whole(c), parts(c);
  HAX_RUN(layer_attention_forward, context, forward_args(c, whole));
  forward_one_by_one(c, parts, context);
  expect_same_forward(whole, parts);

  HAX_RUN(layer_attention_backward, context, backward_args(c, whole));
  backward_one_by_one(c, parts, context);
  expect_same("dq", whole.dq, parts.dq);
  expect_same("dk", whole.dk, parts.dk);
  expect_same("dv", whole.dv, parts.dv);
  expect_same("dW1", whole.dW1, parts.dW1);
  expect_same("db1", whole.db1, parts.db1);
  expect_same("dW2", whole.dW2, parts.dW2);
  expect_same("db2", whole.db2, parts.db2);
  expect_same("dW3", whole.dW3, parts.dW3);
  expect_same("db3", whole.db3, parts.db3);
}

TEST(LayerAttention, EqualsItsPartsForEveryUnionOfPatterns) {
  for (const uint32_t patterns :
       {kHax, uint32_t{HAX_PATTERN_LSH}, uint32_t{HAX_PATTERN_KEY_SELECTION}, kAll,
        uint32_t{HAX_PATTERN_SLIDING_WINDOW}}) {
    expect_whole_equals_parts({.patterns = patterns});
  }
}

TEST(LayerAttention, EqualsItsPartsForEveryTypeAndLayout) {
  for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
    for (const Layout layout : kLayouts)
      expect_whole_equals_parts({.type = type, .layout = layout});
  }
}

TEST(LayerAttention, EqualsItsPartsOnPackedSequencesWithCausalStatistics) {
  expect_whole_equals_parts({.batch = 1,
                             .statistics = HAX_LSH_STATISTICS_CAUSAL,
                             .normalization = HAX_KEY_SCORE_NORM_SEQUENCE,
                             .cu_seqlens = {0, 0, 20, 21, 75, 75}});
}

TEST(LayerAttention, EqualsItsPartsWithGroupedHeadsWithoutSelection) {
  expect_whole_equals_parts(
      {.q_heads = 6, .k_heads = 2, .patterns = HAX_PATTERN_LSH | HAX_PATTERN_SINK});
}

TEST(LayerAttention, EqualsItsPartsWithoutTheRankingLoss) {
  expect_whole_equals_parts({.picks = 0});
}

TEST(LayerAttention, NothingToDo) {
  expect_whole_equals_parts({.length = 0, .picks = 0});
  expect_whole_equals_parts({.batch = 0, .picks = 0});
}

// What passes between the operators stays inside, and what comes out doesn't change.
TEST(LayerAttention, OutputsNotAskedFor) {
  const LayerCase c;
  const TestContext context;
  const LayerTensors all(c), few(c);
  HAX_RUN(layer_attention_forward, context, forward_args(c, all));
  hax_layer_attention_forward_args args = forward_args(c, few);
  args.lse = args.key_order = args.begin = args.end = args.score = args.eviction = args.target =
      nullptr;
  HAX_RUN(layer_attention_forward, context, args);
  expect_same("o", few.o, all.o);
  expect_same("loss", few.loss, all.loss);
  EXPECT_TRUE(few.key_order.untouched() && few.eviction.untouched() && few.score.untouched());
}

TEST(LayerAttention, RejectedByQueryAndCallAlike) {
  using Args = hax_layer_attention_forward_args;
  const LayerCase selection;
  const LayerCase window{.patterns = HAX_PATTERN_SLIDING_WINDOW};
  const LayerTensors tensors(selection), plain(window);
  const struct {
    const LayerCase& c;
    const LayerTensors& t;
    std::function<void(Args&)> spoil;
    hax_status status;
    const char* text;
  } rows[] = {
      {selection, tensors, [](Args& a) { a.q = nullptr; }, HAX_ERROR_INVALID_ARGUMENT,
       "q: expected a tensor, got NULL"},
      {selection, tensors, [](Args& a) { a.R = nullptr; }, HAX_ERROR_INVALID_ARGUMENT,
       "R: expected a tensor, got NULL"},
      {selection, tensors, [](Args& a) { a.lsh_budget = 0; }, HAX_ERROR_INVALID_ARGUMENT,
       "lsh_budget: expected at least 1 with HAX_PATTERN_LSH, got 0"},
      {selection, tensors, [](Args& a) { a.selection_budget = -3; }, HAX_ERROR_INVALID_ARGUMENT,
       "selection_budget: expected at least 1 with HAX_PATTERN_KEY_SELECTION, got -3"},
      {selection, tensors, [](Args& a) { a.loss = nullptr; }, HAX_ERROR_INVALID_ARGUMENT,
       "loss: expected a tensor, got NULL"},
      {selection, tensors, [](Args& a) { a.pick = nullptr; }, HAX_ERROR_INVALID_ARGUMENT,
       "loss: expected NULL without pick, got a tensor"},
      {selection, tensors, [](Args& a) { a.statistics = 9; }, HAX_ERROR_UNSUPPORTED,
       "statistics: expected HAX_LSH_STATISTICS_NONE (0), SEQUENCE (1) or CAUSAL (2), got 9"},
      {selection, tensors, [](Args& a) { a.scale = 0.0f; }, HAX_ERROR_INVALID_ARGUMENT,
       "scale: expected a finite number other than 0, got 0"},
      {window, plain, [&](Args& a) { a.R = tensors.R.arg(); }, HAX_ERROR_INVALID_ARGUMENT,
       "R: expected NULL without HAX_PATTERN_LSH, got a tensor"},
      {window, plain, [](Args& a) { a.lsh_budget = 4; }, HAX_ERROR_INVALID_ARGUMENT,
       "lsh_budget: expected 0 without HAX_PATTERN_LSH, got 4"},
      {window, plain, [&](Args& a) { a.score = tensors.score.arg(); }, HAX_ERROR_INVALID_ARGUMENT,
       "score: expected NULL without HAX_PATTERN_KEY_SELECTION, got a tensor"},
  };
  const TestContext context;
  std::vector<unsigned char> memory(1 << 20);
  for (const auto& row : rows) {
    Args args = forward_args(row.c, row.t);
    row.spoil(args);
    const std::string text = std::string("hax_layer_attention_forward: ") + row.text;
    size_t bytes = 0;
    EXPECT_EQ(hax_layer_attention_forward_workspace(context, &args, &bytes), row.status) << text;
    EXPECT_EQ(hax_last_error(), text);
    EXPECT_EQ(hax_layer_attention_forward(context, &args, memory.data(), memory.size(), nullptr),
              row.status);
    EXPECT_EQ(hax_last_error(), text);
    EXPECT_TRUE(row.t.o.untouched());
  }
}

TEST(LayerAttention, SelectionNeedsAKeyHeadForEachQueryHead) {
  const LayerCase c{.q_heads = 4, .k_heads = 2};
  const LayerTensors t(c);
  hax_layer_attention_forward_args args = forward_args(c, t);
  size_t bytes = 0;
  const TestContext context;
  EXPECT_EQ(hax_layer_attention_forward_workspace(context, &args, &bytes), HAX_ERROR_UNSUPPORTED);
  EXPECT_STREQ(hax_last_error(),
               "hax_layer_attention_forward: k: expected Hk=Hq=4 with HAX_PATTERN_KEY_SELECTION, "
               "got Hk=2");
}

}  // namespace
}  // namespace hax_test
