// Rows that are special: empty ones, and ones that must not see what they don't attend.
#include <limits>

#include "attention/sparse_attention_case.hpp"

namespace hax_test {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

bool is_zero(const Array& a) {
  return std::all_of(a.data.begin(), a.data.end(), [](double x) { return x == 0.0; });
}

// Nothing selected anywhere: no output, no gradient, and nothing of the gradients given is read.
TEST(SparseAttentionRows, AllEmpty) {
  const TestContext context;
  for (const hax_data_type type : {kFp32, kBf16}) {
    const AttentionCase c{.batch = 1, .length = 20, .patterns = kHaxPatterns, .type = type};
    AttentionData data(c);
    for (int64_t h = 0; h < c.k_heads; ++h) {
      for (int64_t t = 0; t < c.length; ++t) data.eviction.at(0, h, t) = static_cast<double>(t);
    }
    data.begin = data.end;
    for (double& x : data.dlse.data) x = kNaN;
    for (double& x : data.d_o.data) x = kNaN;
    const AttentionOutputs out = run_forward(c, data, context);
    EXPECT_TRUE(is_zero(out.o.array()));
    for (const double x : out.lse.array().data) EXPECT_EQ(x, -kInf);
    const AttentionGradients gradients = run_backward(c, data, out, context);
    EXPECT_TRUE(is_zero(gradients.dq.array()));
    EXPECT_TRUE(is_zero(gradients.dk.array()));
    EXPECT_TRUE(is_zero(gradients.dv.array()));
  }
}

// The first dilation - 1 rows are empty, those behind aren't.
TEST(SparseAttentionRows, SomeEmpty) {
  const TestContext context;
  const AttentionCase c{.batch = 1, .length = 20, .patterns = HAX_PATTERN_DILATED, .dilation = 6};
  AttentionData data(c);
  for (int64_t h = 0; h < c.q_heads; ++h) {
    for (int64_t i = 0; i < 5; ++i) data.dlse.at(0, h, i) = kNaN;
  }
  const AttentionOutputs out = run_forward(c, data, context);
  for (int64_t h = 0; h < c.q_heads; ++h) {
    for (int64_t i = 0; i < c.length; ++i) {
      EXPECT_EQ(out.lse.array().at(0, h, i) == -kInf, i < 5);
    }
  }
  const AttentionGrads want = oracle_attention_backward(data.oracle, data.d_o, data.dlse);
  const AttentionGradients got = run_backward(c, data, out, context);
  EXPECT_TRUE(expect_close("dq", got.dq.array(), want.dq, 2e-5));
  EXPECT_TRUE(expect_close("dk", got.dk.array(), want.dk, 2e-5));
}

// A key and value that are NaN reach only the rows that attend them: none before them under any pattern.
TEST(SparseAttentionRows, UnselectedKeysAreNotTouched) {
  const TestContext context;
  for (uint32_t patterns = 1; patterns < 64; ++patterns) {
    const AttentionCase c{.batch = 1,
                          .length = 110,
                          .q_heads = 2,
                          .k_heads = 1,
                          .patterns = patterns,
                          .dlse = false,
                          .seed = patterns};
    SCOPED_TRACE(describe(c));
    AttentionData data(c);
    const int64_t poisoned = 70;
    for (int64_t d = 0; d < c.d_qk; ++d) data.oracle.k.at(0, poisoned, 0, d) = kNaN;
    for (int64_t d = 0; d < c.d_v; ++d) data.oracle.v.at(0, poisoned, 0, d) = kNaN;
    const AttentionOutputs out = run_forward(c, data, context);
    const AttentionGradients gradients = run_backward(c, data, out, context, 1);
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t i = 0; i < c.length; ++i) {
        const Selection& selection = data.oracle.selections[static_cast<size_t>(h)];
        const bool selected = selection.at(i, poisoned);
        EXPECT_EQ(std::isnan(out.o.array().at(0, i, h, 0)), selected) << h << " " << i;
        EXPECT_EQ(std::isnan(out.lse.array().at(0, h, i)), selected);
        EXPECT_EQ(std::isnan(gradients.dq.array().at(0, i, h, 0)), selected);
      }
    }
  }
}

// A score of -infinity weighs nothing beside finite ones, in whichever piece of the row it comes.
TEST(SparseAttentionRows, InfiniteScores) {
  const TestContext context;
  for (const uint32_t patterns :
       {uint32_t{HAX_PATTERN_FULL}, uint32_t{HAX_PATTERN_SLIDING_WINDOW}}) {
    const AttentionCase c{.batch = 1,
                          .length = 700,
                          .q_heads = 1,
                          .k_heads = 1,
                          .d_qk = 1,
                          .d_v = 8,
                          .patterns = patterns,
                          .window = 10000,
                          .scale = 1.0,
                          .dlse = false};
    AttentionData data(c);
    for (double& q : data.oracle.q.data) q = 1.0;
    for (int64_t j = 0; j < 300; ++j) data.oracle.k.at(0, j, 0, 0) = -kInf;
    const AttentionOutputs out = run_forward(c, data, context);
    for (int64_t i = 0; i < 300; ++i) {
      EXPECT_TRUE(std::isnan(out.o.array().at(0, i, 0, 0))) << i;
      EXPECT_EQ(out.lse.array().at(0, 0, i), -kInf) << i;
    }
    AttentionArgs tail = data.oracle;
    for (Array* a : {&tail.q, &tail.k, &tail.v}) *a = slice_axis(*a, 1, 300, 700);
    tail.selections = {select_full(400)};
    const AttentionResult want = oracle_attention(tail);
    EXPECT_TRUE(expect_close("o", slice_axis(out.o.array(), 1, 300, 700), want.o, 1e-5));
    EXPECT_TRUE(expect_close("lse", slice_axis(out.lse.array(), 2, 300, 700), want.lse, 1e-5));
  }
}

}  // namespace
}  // namespace hax_test
