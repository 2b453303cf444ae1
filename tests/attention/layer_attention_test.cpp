// The whole call against the operators that it consists of, called one by one, each of which has tests
// against an oracle: the same arithmetic in the same order, so the same bits.
#include <functional>

#include "attention/layer_attention_case.hpp"

namespace hax_test {
namespace {

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

// Of several tiles, and shorter and longer than what CUDA chooses keys of in one launch.
TEST(LayerAttention, EqualsItsPartsForSequencesOfEveryLength) {
  for (const int64_t length : {1, 127, 128, 129, 700, 2047, 2048, 2049}) {
    expect_whole_equals_parts(
        {.batch = 1, .length = length, .features = 32, .d_v = 40, .type = kBf16});
  }
  expect_whole_equals_parts({.batch = 1,
                             .length = 1500,
                             .features = 32,
                             .cu_seqlens = {0, 300, 301, 301, 1500},
                             .type = kFp16});
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
