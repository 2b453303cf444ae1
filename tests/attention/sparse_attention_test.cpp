#include <array>

#include "attention/sparse_attention_case.hpp"
#include "support/safetensors.hpp"

namespace hax_test {
namespace {

constexpr uint32_t kAllPatterns = 63;

TEST(SparseAttention, EveryUnionOfPatternsOnEveryCpuLevel) {
  for (const std::string& level : available_cpu_levels()) {
    SCOPED_TRACE(level);
    const TestContext context(2, level.c_str());
    for (uint32_t patterns = 1; patterns <= kAllPatterns; ++patterns) {
      expect_matches({.patterns = patterns, .seed = patterns}, context);
      expect_matches({.batch = 1,
                      .length = 80,
                      .patterns = patterns,
                      .window = 9,
                      .sink = 12,
                      .dilation = 3,
                      .lsh_budget = 16,
                      .selection_budget = 9,
                      .cu_seqlens = {0, 0, 1, 44, 80},
                      .seed = patterns},
                     context);
    }
  }
}

TEST(SparseAttention, EveryTypeAndLayoutOnEveryCpuLevel) {
  for (const std::string& level : available_cpu_levels()) {
    SCOPED_TRACE(level);
    const TestContext context(2, level.c_str());
    for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
      for (const Layout layout : kLayouts) {
        for (const uint32_t patterns :
             {uint32_t{HAX_PATTERN_FULL}, kHaxPatterns, uint32_t{HAX_PATTERN_SLIDING_WINDOW}}) {
          expect_matches({.length = 70, .patterns = patterns, .type = type, .layout = layout},
                         context);
          expect_matches({.batch = 1,
                          .length = 130,
                          .k_heads = 1,
                          .d_qk = 7,
                          .d_v = 9,
                          .patterns = patterns,
                          .cu_seqlens = {0, 129, 130},
                          .type = type,
                          .cu_type = kInt64,
                          .layout = layout},
                         context);
        }
      }
    }
  }
}

TEST(SparseAttention, HostileLengths) {
  const TestContext context;
  for (const uint32_t patterns : {uint32_t{HAX_PATTERN_FULL}, kHaxPatterns, kAllPatterns - 1}) {
    for (const int64_t length : {0, 1, 2, 31, 32, 33, 63, 64, 65, 96, 97, 127, 128, 129, 260}) {
      expect_matches({.batch = 1, .length = length, .q_heads = 2, .patterns = patterns}, context);
    }
    expect_matches({.batch = 0, .patterns = patterns}, context);
    expect_matches({.batch = 1, .length = 0, .patterns = patterns, .cu_seqlens = {0}}, context);
    expect_matches({.batch = 1, .length = 0, .patterns = patterns, .cu_seqlens = {0, 0, 0}},
                   context);
    expect_matches({.batch = 1,
                    .length = 300,
                    .q_heads = 1,
                    .k_heads = 1,
                    .patterns = patterns,
                    .cu_seqlens = {0, 5, 5, 133, 134, 300, 300}},
                   context);
  }
}

// Sequences beyond those that CUDA takes in one walk, a tile of 64 queries more or less; with the larger budget more keys
// are selected than a walk in the order of buckets takes along.
TEST(SparseAttention, LongSequencesOf16Bits) {
  const TestContext context;
  for (const hax_data_type type : {kBf16, kFp16}) {
    for (const int64_t length : {2111, 2113}) {
      for (const int64_t budget : {32, 600}) {
        if (budget == 600 && length != 2113) continue;
        expect_matches({.batch = 1,
                        .length = length,
                        .q_heads = 2,
                        .k_heads = 1,
                        .d_qk = 16,
                        .d_v = 24,
                        .lsh_budget = 32,
                        .selection_budget = budget,
                        .codes = 16,
                        .type = type,
                        .seed = static_cast<uint64_t>(length)},
                       context);
      }
    }
  }
}

// Windows around the length that CUDA has a kernel of its own for, in sequences of some of its tiles and of many.
TEST(SparseAttention, WindowsAlone) {
  const TestContext context;
  constexpr uint32_t kWindow = HAX_PATTERN_SLIDING_WINDOW;
  for (const int32_t window : {1, 2, 17, 63, 64, 65}) {
    for (const hax_data_type type : {kFp16, kBf16}) {
      expect_matches({.batch = 1,
                      .length = 700,
                      .q_heads = 2,
                      .k_heads = 1,
                      .d_qk = 72,
                      .d_v = 40,
                      .patterns = kWindow,
                      .window = window,
                      .cu_seqlens = {0, 0, 1, 65, 129, 129, 256, 321, 700, 700},
                      .type = type},
                     context);
    }
    for (const int64_t length : {1, 63, 64, 65, 129, 900}) {
      expect_matches({.batch = 2,
                      .length = length,
                      .q_heads = 1,
                      .k_heads = 1,
                      .d_qk = 64,
                      .d_v = 64,
                      .patterns = kWindow,
                      .window = window,
                      .type = kBf16},
                     context);
    }
  }
}

// A value that isn't finite reaches the rows that select it and no others.
TEST(SparseAttention, InfiniteValuesInAWindow) {
  const TestContext context;
  const AttentionCase c = {.batch = 1,
                           .length = 200,
                           .q_heads = 1,
                           .k_heads = 1,
                           .d_qk = 16,
                           .d_v = 16,
                           .patterns = HAX_PATTERN_SLIDING_WINDOW,
                           .window = 9,
                           .type = kBf16};
  AttentionData data(c);
  const AttentionOutputs finite = run_forward(c, data, context);
  constexpr int64_t kAt = 70;
  data.oracle.v.at(0, kAt, 0, 3) = INFINITY;
  const AttentionOutputs infinite = run_forward(c, data, context);
  const Array want = finite.o.array(), got = infinite.o.array();
  for (int64_t t = 0; t < c.length; ++t) {
    for (int64_t n = 0; n < c.d_v; ++n) {
      const bool reached = t >= kAt && t < kAt + c.window && n == 3;
      EXPECT_EQ(got.at(0, t, 0, n), reached ? INFINITY : want.at(0, t, 0, n)) << t << " " << n;
    }
  }
}

TEST(SparseAttention, HostileWidthsAndHeads) {
  const TestContext context;
  for (const uint32_t patterns : {uint32_t{HAX_PATTERN_FULL}, kHaxPatterns}) {
    for (const auto& [d_qk, d_v] : std::vector<std::pair<int64_t, int64_t>>{{1, 1},
                                                                            {1, 256},
                                                                            {256, 1},
                                                                            {3, 5},
                                                                            {8, 8},
                                                                            {17, 31},
                                                                            {32, 128},
                                                                            {64, 33},
                                                                            {255, 257 - 1},
                                                                            {40, 72},
                                                                            {120, 96}}) {
      expect_matches({.length = 67, .d_qk = d_qk, .d_v = d_v, .patterns = patterns}, context);
    }
    for (const auto& [q_heads, k_heads] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {5, 1}, {5, 5}, {6, 2}, {9, 3}}) {
      expect_matches({.length = 67, .q_heads = q_heads, .k_heads = k_heads, .patterns = patterns},
                     context);
    }
  }
}

TEST(SparseAttention, NoHeads) {
  const TestContext context;
  for (const uint32_t patterns :
       {uint32_t{HAX_PATTERN_FULL}, uint32_t{HAX_PATTERN_SLIDING_WINDOW}}) {
    expect_matches({.q_heads = 0, .k_heads = 0, .patterns = patterns}, context);
    expect_matches({.q_heads = 0, .k_heads = 2, .patterns = patterns}, context);
  }
}

// More keys a query than one piece of a list holds, and more tokens than one task.
TEST(SparseAttention, LongLists) {
  const TestContext context;
  const AttentionCase base{
      .batch = 1, .length = 900, .q_heads = 2, .k_heads = 1, .d_qk = 8, .d_v = 8};
  for (const uint32_t patterns : {uint32_t{HAX_PATTERN_SLIDING_WINDOW}, uint32_t{HAX_PATTERN_SINK},
                                  uint32_t{HAX_PATTERN_DILATED}, uint32_t{HAX_PATTERN_LSH},
                                  uint32_t{HAX_PATTERN_KEY_SELECTION}, kAllPatterns - 1}) {
    AttentionCase c = base;
    c.patterns = patterns;
    c.window = 515;
    c.sink = 257;
    c.dilation = 1;
    c.lsh_budget = 400;
    c.codes = 2;
    c.selection_budget = 300;
    expect_matches(c, context);
  }
}

TEST(SparseAttention, NumbersLargerThanTheSequence) {
  const TestContext context;
  expect_matches({.patterns = HAX_PATTERN_SLIDING_WINDOW, .window = INT32_MAX}, context);
  expect_matches({.patterns = HAX_PATTERN_SINK, .sink = INT32_MAX}, context);
  expect_matches({.patterns = HAX_PATTERN_DILATED, .dilation = INT32_MAX}, context);
  expect_matches({.patterns = kAllPatterns - 1, .sink = INT32_MAX, .dilation = INT32_MAX}, context);
}

TEST(SparseAttention, LargeScoresDontOverflow) {
  const TestContext context;
  for (const uint32_t patterns : {uint32_t{HAX_PATTERN_FULL}, kHaxPatterns}) {
    for (const double scale : {40.0, -40.0}) {
      const AttentionCase c{.length = 100, .patterns = patterns, .scale = scale};
      const AttentionData data(c);
      const AttentionOutputs got = run_forward(c, data, context);
      const AttentionResult want = oracle_attention(data.oracle);
      // Scores of a few hundred carry an absolute error of 1e-4 in fp32, which the exponential turns into
      // a relative one.
      EXPECT_TRUE(expect_close("o", got.o.array(), want.o, 1e-3));
      EXPECT_TRUE(expect_close("lse", got.lse.array(), want.lse, 1e-5));
    }
  }
}

TEST(SparseAttention, SameBitsForEveryThreadCount) {
  const std::vector<AttentionCase> cases = {
      {.batch = 1, .length = 700, .q_heads = 2, .k_heads = 1},
      {.batch = 1, .length = 700, .q_heads = 2, .k_heads = 1, .patterns = HAX_PATTERN_FULL},
      {.batch = 3, .length = 300, .type = kBf16},
      {.batch = 5, .length = 150, .patterns = kAllPatterns - 1, .type = kFp16},
      {.batch = 1,
       .length = 600,
       .q_heads = 3,
       .k_heads = 3,
       .cu_seqlens = {0, 400, 401, 600},
       .type = kBf16},
  };
  for (const AttentionCase& c : cases) {
    SCOPED_TRACE(describe(c));
    const AttentionData data(c);
    const TestContext one(1);
    const AttentionOutputs want = run_forward(c, data, one);
    const AttentionGradients want_gradients = run_backward(c, data, want, one);
    for (const int threads : {2, 3, 16}) {
      const TestContext several(threads);
      const AttentionOutputs got = run_forward(c, data, several);
      EXPECT_EQ(got.o.array().data, want.o.array().data);
      EXPECT_EQ(got.lse.array().data, want.lse.array().data);
      const AttentionGradients gradients = run_backward(c, data, want, several);
      EXPECT_EQ(gradients.dq.array().data, want_gradients.dq.array().data);
      EXPECT_EQ(gradients.dk.array().data, want_gradients.dk.array().data);
      EXPECT_EQ(gradients.dv.array().data, want_gradients.dv.array().data);
    }
  }
}

// A packed run gives the bits of its sequences run one by one.
TEST(SparseAttention, PackedEqualsSeparate) {
  const TestContext context;
  for (const uint32_t patterns : {uint32_t{HAX_PATTERN_FULL}, kHaxPatterns, kAllPatterns - 1}) {
    const std::vector<int64_t> cuts = {0, 150, 150, 187, 400};
    const AttentionCase c{.batch = 1, .length = 400, .patterns = patterns, .cu_seqlens = cuts};
    const AttentionData data(c);
    const Array packed = run_forward(c, data, context).o.array();
    for (size_t s = 0; s + 1 < cuts.size(); ++s) {
      const auto cut = [&](const Array& a, int64_t axis) {
        return a.present() ? slice_axis(a, axis, cuts[s], cuts[s + 1]) : a;
      };
      AttentionCase alone = c;
      alone.length = cuts[s + 1] - cuts[s];
      alone.cu_seqlens.clear();
      AttentionData part = data;
      for (Array* a : {&part.oracle.q, &part.oracle.k, &part.oracle.v}) *a = cut(*a, 1);
      for (Array* a : {&part.key_order, &part.begin, &part.end, &part.eviction}) *a = cut(*a, 2);
      EXPECT_EQ(run_forward(alone, part, context).o.array().data, cut(packed, 1).data);
    }
  }
}

TEST(SparseAttention, OptionalOutputsMayBeLeftOut) {
  const TestContext context;
  for (const uint32_t patterns : {uint32_t{HAX_PATTERN_FULL}, kHaxPatterns}) {
    for (const int64_t length : {40, 400}) {
      const AttentionCase c{.batch = 1,
                            .length = length,
                            .q_heads = 2,
                            .k_heads = 1,
                            .patterns = patterns,
                            .dlse = false};
      const AttentionData data(c);
      const AttentionOutputs forward = run_forward(c, data, context);
      const AttentionGradients all = run_backward(c, data, forward, context);
      const AttentionGrads want = oracle_attention_backward(data.oracle, data.d_o);
      EXPECT_TRUE(expect_close("dq", all.dq.array(), want.dq, 2e-5));
      for (int wanted = 0; wanted < 7; ++wanted) {
        const AttentionGradients some = run_backward(c, data, forward, context, wanted);
        if (wanted & 1) {
          EXPECT_EQ(some.dq.array().data, all.dq.array().data);
        }
        if (wanted & 2) {
          EXPECT_EQ(some.dk.array().data, all.dk.array().data);
        }
        if (wanted & 4) {
          EXPECT_EQ(some.dv.array().data, all.dv.array().data);
        }
      }
    }
  }
}

// 131,072 tokens of 8 heads, or as many queries on one key head, need at most 1 GiB however many threads
// there are. Only shapes count, so nothing is allocated.
TEST(SparseAttention, WorkspaceStaysBelowOneGibibyte) {
  for (const int threads : {1, 2, 8, 64}) {
    const TestContext context(threads);
    for (const hax_data_type type : {kFp32, kBf16}) {
      for (const int64_t k_heads : {1, 8}) {
        const auto tensor = [&](std::array<int64_t, 4>& shape, int axes, hax_data_type dtype) {
          hax_tensor t = {};
          t.device = {HAX_DEVICE_CPU, 0};
          t.ndim = axes;
          t.dtype = dtype;
          t.shape = shape.data();
          return t;
        };
        constexpr int64_t kLength = 131072;
        std::array<int64_t, 4> q_shape = {1, kLength, 8, 64}, k_shape = {1, kLength, k_heads, 64};
        std::array<int64_t, 4> v_shape = {1, kLength, k_heads, 128}, o_shape = {1, kLength, 8, 128};
        std::array<int64_t, 4> lse_shape = {1, 8, kLength}, index_shape = {1, k_heads, kLength};
        const hax_tensor q = tensor(q_shape, 4, type), k = tensor(k_shape, 4, type);
        const hax_tensor v = tensor(v_shape, 4, type), o = tensor(o_shape, 4, type);
        const hax_tensor lse = tensor(lse_shape, 3, kFp32), range = tensor(lse_shape, 3, kInt32);
        const hax_tensor index = tensor(index_shape, 3, kInt32);
        const hax_sparse_pattern pattern = {sizeof(pattern), kHaxPatterns, 0,      0,     0,
                                            &index,          &range,       &range, &index};
        const hax_sparse_attention_forward_args forward = {
            sizeof(forward), &q, &k, &v, nullptr, &o, &lse, &pattern, 1.0f, 0};
        const hax_sparse_attention_backward_args backward = {
            sizeof(backward), &q, &k, &v, nullptr,  &o,   &lse, &o,
            nullptr,          &q, &k, &v, &pattern, 1.0f, 1,    0};
        size_t bytes = 0;
        ASSERT_EQ(hax_sparse_attention_forward_workspace(context, &forward, &bytes), HAX_SUCCESS);
        EXPECT_LE(bytes, size_t{1} << 30);
        ASSERT_EQ(hax_sparse_attention_backward_workspace(context, &backward, &bytes), HAX_SUCCESS);
        EXPECT_LE(bytes, size_t{1} << 30);
      }
    }
  }
}

// o = probability v for the recorded probabilities of the patterns that need no index tensors.
TEST(SparseAttention, GoldenProbabilities) {
  const TestContext context;
  const Safetensors golden(golden_path("golden_mixer_mamba.safetensors"));
  struct Recorded {
    const char* name;
    uint32_t patterns;
    int32_t window, sink, dilation;  // keys_per_pattern is 24, or 12 in a pair; data_max_length 97
  };
  for (const Recorded& r :
       {Recorded{"full", HAX_PATTERN_FULL, 0, 0, 0},
        Recorded{"sliding_window", HAX_PATTERN_SLIDING_WINDOW, 24, 0, 0},
        Recorded{"dilated", HAX_PATTERN_DILATED, 0, 0, 97 / 24},
        Recorded{"sliding_window+sink", HAX_PATTERN_SLIDING_WINDOW | HAX_PATTERN_SINK, 12, 12, 0},
        Recorded{"sliding_window+dilated", HAX_PATTERN_SLIDING_WINDOW | HAX_PATTERN_DILATED, 12, 0,
                 97 / 12}}) {
    const std::string prefix = std::string("mamba/") + r.name + "/";
    SCOPED_TRACE(prefix);
    const Array kq = golden.load(prefix + "k_and_q_projection");
    const Array v = golden.load(prefix + "v");
    const Array probability = golden.load(prefix + "attention_probability");
    const int64_t batch = v.size(0), length = v.size(1), d_v = v.size(2), n = kq.size(2) / 2;
    const AttentionCase c{.batch = batch,
                          .length = length,
                          .q_heads = 1,
                          .k_heads = 1,
                          .d_qk = n,
                          .d_v = d_v,
                          .patterns = r.patterns,
                          .window = r.window,
                          .sink = r.sink,
                          .dilation = r.dilation,
                          .scale = 1.0 / std::sqrt(static_cast<double>(n))};
    AttentionData data(c);
    data.oracle.k = slice_last(kq, 0, n).reshape({batch, length, 1, n});
    data.oracle.q = slice_last(kq, n, 2 * n).reshape({batch, length, 1, n});
    data.oracle.v = v.reshape({batch, length, 1, d_v});
    const Array got = run_forward(c, data, context).o.array();
    Array want({batch, length, 1, d_v});
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t i = 0; i < length; ++i) {
        const bool empty = (r.patterns == HAX_PATTERN_DILATED) && i < r.dilation - 1;
        for (int64_t j = 0; j <= i && !empty; ++j) {
          for (int64_t d = 0; d < d_v; ++d) {
            want.at(b, i, 0, d) += probability.at(b, i, j) * v.at(b, j, d);
          }
        }
      }
    }
    EXPECT_TRUE(expect_close("o", got, want, 1e-5));
  }
}

}  // namespace
}  // namespace hax_test
