#include <gtest/gtest.h>

#include <vector>

#include "core/tensor.hpp"

namespace hax {
namespace {

Sequences packed(std::vector<int32_t>& boundaries) {
  Sequences sequences{1, boundaries.back(), 0, {}};
  sequences.cu_seqlens.data = boundaries.data();
  sequences.cu_seqlens.type = Type::int32;
  sequences.cu_seqlens.ndim = 1;
  sequences.cu_seqlens.shape[0] = static_cast<int64_t>(boundaries.size());
  sequences.cu_seqlens.stride[0] = 1;
  return sequences;
}

TEST(Sequences, PiecesCoverEveryTokenOnceAndSkipEmptySequences) {
  std::vector<int32_t> boundaries = {0, 0, 1, 4, 4, 4, 9};
  const Sequences sequences = packed(boundaries);
  EXPECT_EQ(sequences.count(), 6);
  for (int64_t begin = 0; begin <= 9; ++begin) {
    for (int64_t end = begin; end <= 9; ++end) {
      int64_t next = begin;
      sequences.for_each_piece(
          0, begin, end,
          [&](int64_t s, const Sequences::Range& range, int64_t first, int64_t last) {
            EXPECT_LT(first, last);
            EXPECT_EQ(range.begin, boundaries[static_cast<size_t>(s)]);
            EXPECT_EQ(range.begin + first, next);
            EXPECT_LE(last, range.length);
            next = range.begin + last;
          });
      EXPECT_EQ(next, end);
    }
  }
}

TEST(Sequences, RowsAreSequencesWithoutBoundaries) {
  const Sequences sequences{3, 5, 0, {}};
  EXPECT_EQ(sequences.count(), 3);
  sequences.for_each_piece(
      2, 1, 4, [](int64_t s, const Sequences::Range& range, int64_t first, int64_t last) {
        EXPECT_EQ(s, 2);
        EXPECT_EQ(range.row, 2);
        EXPECT_EQ(range.length, 5);
        EXPECT_EQ(first, 1);
        EXPECT_EQ(last, 4);
      });
}

}  // namespace
}  // namespace hax
