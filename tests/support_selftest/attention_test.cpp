#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "comparator.hpp"
#include "finite_difference.hpp"
#include "oracle_attention.hpp"
#include "oracle_hash.hpp"

namespace hax_test {
namespace {

std::string drawn(const Selection& s) {
  std::string text;
  for (int64_t i = 0; i < s.length(); ++i) {
    for (int64_t j = 0; j < s.length(); ++j) text += s.at(i, j) ? 'x' : '.';
    text += ' ';
  }
  return text;
}

TEST(Patterns, AsDrawn) {
  EXPECT_EQ(drawn(select_full(4)), "x... xx.. xxx. xxxx ");
  EXPECT_EQ(drawn(select_sliding_window(4, 2)), "x... xx.. .xx. ..xx ");
  EXPECT_EQ(drawn(select_sink(4, 1)), "x... x... x... x... ");
  EXPECT_EQ(drawn(select_dilated(5, 2)), "..... .x... .x... .x.x. .x.x. ");
  EXPECT_EQ(drawn(select_lsh({1, 1, 2, 1}, {1, 1, 1, 2}, 2)), "x... xx.. .... .xx. ");
  EXPECT_EQ(drawn(select_by_eviction({3, 1, 4, 4})), "x... x... x.x. ..xx ");
  Selection both = select_sink(3, 1);
  both.unite(select_sliding_window(3, 1));
  EXPECT_EQ(drawn(both), "x.. xx. x.x ");
  EXPECT_TRUE(select_dilated(5, 2).row_empty(0));
  EXPECT_FALSE(select_dilated(5, 2).row_empty(1));
}

// Two sequences (4 and 5 tokens) with 4 query heads on 2 key heads; one has empty rows.
AttentionArgs problem() {
  AttentionArgs args;
  args.q = random_normal({1, 9, 4, 3}, 1);
  args.k = random_normal({1, 9, 2, 3}, 2);
  args.v = random_normal({1, 9, 2, 5}, 3);
  args.scale = 0.7;
  args.cu_seqlens = {0, 4, 9};
  for (int64_t length : {4, 5}) {
    args.selections.push_back(select_full(length));
    args.selections.push_back(select_dilated(length, 3));
    args.selections.push_back(select_sliding_window(length, 2));
    args.selections.push_back(select_sink(length, 1));
  }
  return args;
}

TEST(AttentionOracle, Gradients) {
  AttentionArgs args = problem();
  const Array d_o = random_normal({1, 9, 4, 5}, 4), dlse = random_normal({1, 4, 9}, 5);
  for (bool with_lse : {false, true}) {
    auto loss = [&] {
      AttentionResult r = oracle_attention(args);
      for (double& value : r.lse.data) {
        if (std::isinf(value)) value = 0.0;
      }
      return dot(r.o, d_o) + (with_lse ? dot(r.lse, dlse) : 0.0);
    };
    const AttentionGrads grads = oracle_attention_backward(args, d_o, with_lse ? dlse : Array());
    const FiniteDifferenceOptions many{.samples = 40};
    EXPECT_TRUE(expect_gradient("dq", loss, args.q, grads.dq, many));
    EXPECT_TRUE(expect_gradient("dk", loss, args.k, grads.dk, many));
    EXPECT_TRUE(expect_gradient("dv", loss, args.v, grads.dv, many));
  }
}

TEST(AttentionOracle, EmptyRowsGiveZeroAndMinusInfinity) {
  const AttentionArgs args = problem();
  const AttentionResult r = oracle_attention(args);
  for (int64_t row : {0, 1, 4, 5}) {  // the first two tokens of each sequence, head 1
    EXPECT_EQ(r.lse.at(0, 1, row), -std::numeric_limits<double>::infinity());
    for (int64_t c = 0; c < 5; ++c) EXPECT_EQ(r.o.at(0, row, 1, c), 0.0);
  }
  EXPECT_TRUE(std::isfinite(r.lse.at(0, 1, 2)));
  const Array dq =
      oracle_attention_backward(args, random_normal({1, 9, 4, 5}, 4), random_normal({1, 4, 9}, 5))
          .dq;
  for (int64_t c = 0; c < 3; ++c) EXPECT_EQ(dq.at(0, 0, 1, c), 0.0);
}

TEST(AttentionOracle, OneKeyCopiesItsValue) {
  const AttentionArgs args = problem();
  const AttentionResult r = oracle_attention(args);
  for (int64_t c = 0; c < 5; ++c) {  // heads 0 and 1 share key head 0, heads 2 and 3 key head 1
    EXPECT_DOUBLE_EQ(r.o.at(0, 4, 0, c), args.v.at(0, 4, 0, c));
    EXPECT_DOUBLE_EQ(r.o.at(0, 4, 2, c), args.v.at(0, 4, 1, c));
    EXPECT_DOUBLE_EQ(r.o.at(0, 6, 1, c), args.v.at(0, 6, 0, c));
  }
  for (int64_t row = 4; row < 9; ++row) {
    for (int64_t c = 0; c < 5; ++c) {
      EXPECT_DOUBLE_EQ(r.o.at(0, row, 3, c), args.v.at(0, 4, 1, c));  // head 3: sink 1
    }
  }
}

TEST(AttentionOracle, PackedEqualsSeparate) {
  const AttentionArgs args = problem();
  const AttentionResult packed = oracle_attention(args);
  AttentionArgs tail = args;
  tail.q = slice_axis(args.q, 1, 4, 9);
  tail.k = slice_axis(args.k, 1, 4, 9);
  tail.v = slice_axis(args.v, 1, 4, 9);
  tail.selections.erase(tail.selections.begin(), tail.selections.begin() + 4);
  tail.cu_seqlens.clear();
  const AttentionResult alone = oracle_attention(tail);
  EXPECT_TRUE(expect_close("o", slice_axis(packed.o, 1, 4, 9), alone.o, 0.0));
  EXPECT_TRUE(expect_close("lse", slice_axis(packed.lse, 2, 4, 9), alone.lse, 0.0));
}

TEST(AttentionOracle, LargeLogitsStayFinite) {
  AttentionArgs args = problem();
  args.scale = 1e4;
  for (double value : oracle_attention(args).o.data) EXPECT_TRUE(std::isfinite(value));
}

}  // namespace
}  // namespace hax_test
