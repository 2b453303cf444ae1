// What the backend moves, masks and rotates against plain fp64 loops.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "model/backend.hpp"
#include "model/error.hpp"
#include "model_backend_fixture.hpp"
#include "support/comparator.hpp"
#include "support/finite_difference.hpp"
#include "support/oracle_math.hpp"

namespace joint_recall {
namespace {

using hax_test::expect_close;
using hax_test::random_normal;

TEST_F(BackendTest, GatherAndScatter) {
  const Array table = random_normal({6, 21}, 1), d_out = random_normal({9, 21}, 2);
  const std::vector<int32_t> index = {5, 0, 0, 3, 5, 5, 1, 0, 2};
  GappedMatrix out(9, 21), d_table(table);
  backend_.gather_rows(GappedMatrix(table), index.data(), out);
  backend_.scatter_add_rows(GappedMatrix(d_out), index.data(), d_table);
  Array gathered({9, 21}), scattered = table;
  for (int64_t r = 0; r < 9; ++r) {
    for (int64_t c = 0; c < 21; ++c) {
      gathered.at(r, c) = table.at(index[static_cast<size_t>(r)], c);
      scattered.at(index[static_cast<size_t>(r)], c) += d_out.at(r, c);
    }
  }
  EXPECT_TRUE(expect_close("gather", out.array(), gathered, 1e-7));
  EXPECT_TRUE(expect_close("scatter", d_table.array(), scattered, 1e-6));
}

// More rows than one partial sum takes, most of them for one row of the table.
TEST_F(BackendTest, ScatterOfManyRows) {
  constexpr int64_t kRows = 5000, kTable = 7;
  const Array d_out = random_normal({kRows, 5}, 2);
  std::vector<int32_t> index(kRows);
  Array want({kTable, 5});
  for (int64_t r = 0; r < kRows; ++r) {
    const int32_t row = r % 3 == 0 ? static_cast<int32_t>(r % kTable) : 2;
    index[static_cast<size_t>(r)] = row;
    for (int64_t c = 0; c < 5; ++c) want.at(row, c) += d_out.at(r, c);
  }
  GappedMatrix d_table(Array({kTable, 5}));
  backend_.scatter_add_rows(GappedMatrix(d_out), index.data(), d_table);
  EXPECT_TRUE(expect_close("scatter", d_table.array(), want, 1e-5));
}

TEST_F(BackendTest, ScatterRowsOverwritesThoseNamed) {
  const Array source = random_normal({3, 5}, 1), old = random_normal({6, 5}, 2);
  const std::vector<int32_t> index = {4, 0, 5};
  GappedMatrix target(old);
  backend_.scatter_rows(GappedMatrix(source), index.data(), target);
  Array want = old;
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t c = 0; c < 5; ++c) want.at(index[static_cast<size_t>(r)], c) = source.at(r, c);
  }
  EXPECT_TRUE(expect_close("scatter", target.array(), want, 1e-7));
}

TEST_F(BackendTest, MaskAddCopy) {
  const Array a = random_normal({3, 5}, 1), b = random_normal({3, 5}, 2);
  GappedMatrix masked(a), sum(a), copy(3, 5);
  const uint8_t mask[] = {1, 0, 1};
  backend_.mask_rows(mask, masked);
  const GappedMatrix from(b);
  backend_.add(from, sum);
  backend_.copy(ConstMatrix(from), Matrix(copy));
  Array want_masked = a, want_sum = a;
  for (int64_t c = 0; c < 5; ++c) want_masked.at(1, c) = 0.0;
  for (size_t i = 0; i < b.data.size(); ++i) want_sum.data[i] += b.data[i];
  EXPECT_TRUE(expect_close("mask", masked.array(), want_masked, 1e-7));
  EXPECT_TRUE(expect_close("add", sum.array(), want_sum, 1e-6));
  EXPECT_TRUE(expect_close("copy", copy.array(), b, 1e-7));
}

TEST_F(BackendTest, NegatedExp) {
  const float A_log[] = {0.0f, 1.0f, -2.0f}, dA[] = {2.0f, 3.0f, 5.0f};
  float A[3], d_A_log[] = {1.0f, 1.0f, 1.0f};
  backend_.negated_exp(A_log, 3, A);
  backend_.negated_exp_backward(A, dA, 3, d_A_log);
  for (int i = 0; i < 3; ++i) {
    EXPECT_NEAR(A[i], -std::exp(A_log[i]), 1e-6);
    EXPECT_NEAR(d_A_log[i], 1.0 - dA[i] * std::exp(A_log[i]), 1e-5);
  }
}

TEST_F(BackendTest, RopeRotatesHalvesAndBack) {
  const Array x = random_normal({4, 12}, 1);
  const int32_t position[] = {0, 1, 7, 1000};
  GappedMatrix y(x);
  backend_.rope(position, 2, 100.0, false, y);
  Array want = x;
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t i = 0; i < 3; ++i) {
        const double angle = position[r] * std::pow(100.0, -2.0 * static_cast<double>(i) / 6.0);
        const double x1 = x.at(r, 6 * h + i), x2 = x.at(r, 6 * h + i + 3);
        want.at(r, 6 * h + i) = x1 * std::cos(angle) - x2 * std::sin(angle);
        want.at(r, 6 * h + i + 3) = x2 * std::cos(angle) + x1 * std::sin(angle);
      }
    }
  }
  EXPECT_TRUE(expect_close("rope", y.array(), want, 1e-6));
  backend_.rope(position, 2, 100.0, true, y);
  EXPECT_TRUE(expect_close("back", y.array(), x, 1e-6));
}

}  // namespace
}  // namespace joint_recall
