// LSH and key selection in sequences of up to 2,048 tokens, for which CUDA has a kernel of its own: tiles of 128
// queries, steps of 32 keys, rounds of 64.
#include <cmath>

#include "attention/sparse_attention_case.hpp"

namespace hax_test {
namespace {

AttentionCase short_case(int64_t length) {
  return {.batch = 1,
          .length = length,
          .q_heads = 2,
          .k_heads = 1,
          .d_qk = 32,
          .d_v = 128,
          .codes = 5,
          .type = kBf16};
}

TEST(ShortSequences, HostileLengths) {
  const TestContext context;
  for (const int64_t length : {1, 15, 17, 31, 33, 64, 65, 127, 128, 129, 257, 600}) {
    AttentionCase c = short_case(length);
    c.seed = static_cast<uint64_t>(length);
    expect_matches(c, context);
  }
}

TEST(ShortSequences, WidthsTypesAndNegativeScales) {
  const TestContext context;
  for (const int64_t d_qk : {8, 16, 40, 64}) {
    for (const int64_t d_v : {8, 72, 128}) {
      AttentionCase c = short_case(130);
      c.d_qk = d_qk;
      c.d_v = d_v;
      c.type = d_v == 72 ? kFp16 : kBf16;
      c.scale = d_qk == 16 ? -0.3 : 0.3;
      expect_matches(c, context);
    }
  }
}

// Few and long ranges; few selected keys, and more than are sorted.
TEST(ShortSequences, BudgetsOfEverySize) {
  const TestContext context;
  for (const int64_t budget : {1, 40, 1500}) {
    for (const uint64_t codes : {1, 300}) {
      AttentionCase c = short_case(1300);
      c.q_heads = 1;
      c.codes = codes;
      c.lsh_budget = c.selection_budget = budget;
      expect_matches(c, context);
    }
  }
}

TEST(ShortSequences, PackedWithBothIndexTypes) {
  const TestContext context;
  for (const hax_data_type type : {kInt32, kInt64}) {
    AttentionCase c = short_case(700);
    for (int64_t s = 0; s <= 40; ++s) c.cu_seqlens.push_back(s * s * 700 / 1600);
    c.cu_type = type;
    expect_matches(c, context);
  }
}

}  // namespace
}  // namespace hax_test
