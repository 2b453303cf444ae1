// Backward of sequences too long for tiles that test every pair: on a GPU they take other kernels.
#include <cmath>
#include <functional>
#include <utility>

#include "attention/sparse_attention_case.hpp"

namespace hax_test {
namespace {

// Too long for such tiles, by type.
struct LongLength {
  hax_data_type type;
  int64_t tokens;
};
constexpr LongLength kLongLengths[] = {{kFp32, 1090}, {kBf16, 2130}};

// Every union of what is handled apart: LSH's ranges, spans that differ, the window.
TEST(SparseAttentionBackward, UnionsOfPatterns) {
  const TestContext context;
  for (const LongLength& length : kLongLengths) {
    for (const uint32_t patterns :
         {1u, 2u, 4u, 8u, 16u, 32u, 48u, 18u, 34u, 20u, 40u, 12u, 62u, 63u}) {
      expect_matches({.batch = 1,
                      .length = length.tokens,
                      .q_heads = 2,
                      .k_heads = 1,
                      .d_qk = 8,
                      .d_v = 8,
                      .patterns = patterns,
                      .window = 70,
                      .sink = 5,
                      .dilation = 97,
                      .lsh_budget = 16,
                      .selection_budget = 16,
                      .codes = 40,
                      .type = length.type,
                      .seed = patterns},
                     context);
    }
  }
}

TEST(SparseAttentionBackward, TypesLayoutsAndWidths) {
  const TestContext context;
  for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
    for (const Layout layout : kLayouts) {
      expect_matches({.batch = 1,
                      .length = 700,
                      .q_heads = 2,
                      .k_heads = 2,
                      .d_qk = 7,
                      .d_v = 5,
                      .lsh_budget = 8,
                      .selection_budget = 8,
                      .codes = 30,
                      .type = type,
                      .layout = layout},
                     context);
    }
  }
  for (const int64_t width : {33, 64, 65, 128, 129, 256}) {
    expect_matches({.batch = 1,
                    .length = 580,
                    .q_heads = 1,
                    .k_heads = 1,
                    .d_qk = width,
                    .d_v = width,
                    .patterns = 63 - HAX_PATTERN_FULL - HAX_PATTERN_DILATED,
                    .lsh_budget = 8,
                    .selection_budget = 8,
                    .codes = 30,
                    .type = kBf16},
                   context);
  }
}

// Short and long sequences side by side take different kernels.
TEST(SparseAttentionBackward, Packed) {
  const TestContext context;
  for (const hax_data_type type : {kFp32, kBf16}) {
    for (const uint32_t patterns : {16u, 32u, 48u, 62u, 44u}) {
      expect_matches({.batch = 1,
                      .length = 2000,
                      .q_heads = 2,
                      .k_heads = 1,
                      .d_qk = 8,
                      .d_v = 8,
                      .patterns = patterns,
                      .dilation = 200,
                      .lsh_budget = 8,
                      .selection_budget = 8,
                      .codes = 40,
                      .cu_seqlens = {0, 130, 130, 900, 901, 1900, 2000},
                      .type = type,
                      .seed = patterns},
                     context);
    }
  }
}

using Evictions = std::function<int64_t(int64_t key, int64_t length)>;

// A case of key selection, and perhaps LSH, with these evictions instead of those that selection would make.
AttentionData with_evictions(const AttentionCase& c, const Evictions& evict) {
  AttentionData data(c);
  AttentionCase others = c;
  others.patterns &= ~HAX_PATTERN_KEY_SELECTION;
  data.oracle.selections = AttentionData(others).oracle.selections;
  std::vector<int64_t> evicted;
  for (int64_t j = 0; j < c.length; ++j) {
    evicted.push_back(evict(j, c.length));
    for (int64_t h = 0; h < c.k_heads; ++h) {
      data.eviction.at(0, h, j) = static_cast<double>(evicted.back());
    }
  }
  for (Selection& s : data.oracle.selections) s.unite(select_by_eviction(evicted));
  return data;
}

void expect_gradients_match(const AttentionCase& c, const AttentionData& data,
                            const hax_context* context) {
  const AttentionOutputs forward = run_forward(c, data, context);
  const AttentionResult want = oracle_attention(data.oracle);
  const double error = c.type.bits == 32 ? 1e-5 : 1e-2;
  EXPECT_TRUE(expect_close("o", forward.o.array(), want.o, error));
  const AttentionGradients got = run_backward(c, data, forward, context);
  const AttentionGrads expected = oracle_attention_backward(data.oracle, data.d_o, data.dlse);
  EXPECT_TRUE(expect_close("dq", got.dq.array(), expected.dq, 2 * error));
  EXPECT_TRUE(expect_close("dk", got.dk.array(), expected.dk, 2 * error));
  EXPECT_TRUE(expect_close("dv", got.dv.array(), expected.dv, 2 * error));
  const AttentionGradients again = run_backward(c, data, forward, context);
  EXPECT_EQ(again.dq.array().data, got.dq.array().data);
  EXPECT_EQ(again.dk.array().data, got.dk.array().data);
  EXPECT_EQ(again.dv.array().data, got.dv.array().data);
}

// Any evictions are legal, whatever selection could have made them.
TEST(SparseAttentionBackward, EvictionsOfEveryKind) {
  const TestContext context;
  struct Kind {
    const char* name;
    Evictions evict;
  };
  const Kind kinds[] = {
      {"all stay", [](int64_t, int64_t length) { return length; }},
      {"none enters", [](int64_t j, int64_t) { return j; }},
      {"a window", [](int64_t j, int64_t length) { return std::min(j + 32, length); }},
      {"the first stay", [](int64_t j, int64_t length) { return j < 40 ? length : j; }},
      {"the last stay", [](int64_t j, int64_t length) { return j < length - 40 ? j : length; }},
      {"all leave at once",
       [](int64_t j, int64_t length) { return j < length / 2 ? length / 2 : j; }},
      {"every other stays", [](int64_t j, int64_t length) { return j % 2 ? length : j; }},
      {"scattered",
       [](int64_t j, int64_t length) {
         return std::min(length, j + (j % 37 == 0 ? (j * 7919) % 1500 : j % 3));
       }},
  };
  for (const auto& [length, patterns] : {
           std::pair(kLongLengths[0], uint32_t{HAX_PATTERN_KEY_SELECTION}),
           std::pair(kLongLengths[0], kHaxPatterns),
           std::pair(kLongLengths[1], uint32_t{HAX_PATTERN_KEY_SELECTION}),
           std::pair(kLongLengths[1], kHaxPatterns),
       }) {
    for (const Kind& kind : kinds) {
      SCOPED_TRACE(kind.name);
      const AttentionCase c{.batch = 1,
                            .length = length.tokens + 211,
                            .q_heads = 2,
                            .k_heads = 1,
                            .d_qk = 8,
                            .d_v = 8,
                            .patterns = patterns,
                            .lsh_budget = 8,
                            .selection_budget = 1,
                            .codes = 40,
                            .type = length.type};
      expect_gradients_match(c, with_evictions(c, kind.evict), context);
    }
  }
}

// It reaches the queries and keys that it is paired with, and of dv its own column alone.
TEST(SparseAttentionBackward, NanInOneColumnOfAGradient) {
  const TestContext context;
  for (const int64_t length : {int64_t{300}, kLongLengths[1].tokens}) {
    const AttentionCase c{.batch = 1,
                          .length = length,
                          .q_heads = 2,
                          .k_heads = 1,
                          .d_qk = 8,
                          .d_v = 8,
                          .patterns = kHaxPatterns,
                          .lsh_budget = 8,
                          .selection_budget = 8,
                          .codes = 40,
                          .type = kBf16};
    AttentionData data(c);
    data.d_o.at(0, length - 50, 0, 3) = NAN;
    const AttentionGradients got = run_backward(c, data, run_forward(c, data, context), context);
    const AttentionGrads want = oracle_attention_backward(data.oracle, data.d_o, data.dlse);
    EXPECT_TRUE(expect_close("dq", got.dq.array(), want.dq, 2e-2));
    EXPECT_TRUE(expect_close("dk", got.dk.array(), want.dk, 2e-2));
    EXPECT_TRUE(expect_close("dv", got.dv.array(), want.dv, 2e-2));
  }
}

// Ranges that no bucketing makes: long, short and empty ones beside each other, in no order.
TEST(SparseAttentionBackward, RangesOfEveryKind) {
  const TestContext context;
  for (const LongLength& length : kLongLengths) {
    const AttentionCase c{.batch = 1,
                          .length = length.tokens + 110,
                          .q_heads = 2,
                          .k_heads = 1,
                          .d_qk = 8,
                          .d_v = 8,
                          .patterns = HAX_PATTERN_LSH,
                          .lsh_budget = 8,
                          .codes = 1,
                          .type = length.type};
    AttentionData data(c);
    for (int64_t h = 0; h < c.q_heads; ++h) {
      Selection& selection = data.oracle.selections[static_cast<size_t>(h)];
      selection = Selection(c.length);
      for (int64_t i = 0; i < c.length; ++i) {
        const int64_t end = (i * 977 + h) % (c.length + 1);
        const int64_t begin = std::max<int64_t>(0, end - (i % 5 == 0 ? 0 : i % 7 == 0 ? 700 : 11));
        data.end.at(0, h, i) = static_cast<double>(end);
        data.begin.at(0, h, i) = static_cast<double>(begin);
        for (int64_t x = begin; x < end;
             ++x) {  // with one code, key_order is the order of positions
          if (x <= i) selection.select(i, x);
        }
      }
    }
    expect_gradients_match(c, data, context);
  }
}

}  // namespace
}  // namespace hax_test
