// The backend's arithmetic against plain fp64 loops.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "model/backend.hpp"
#include "model/error.hpp"
#include "model_mixer_fixture.hpp"
#include "model_staged_backend.hpp"
#include "support/comparator.hpp"
#include "support/finite_difference.hpp"
#include "support/oracle_math.hpp"

namespace joint_recall {
namespace {

using hax_test::expect_close;
using hax_test::random_normal;

// A matrix with a gap after each row, which has to stay as it is.
class GappedMatrix {
 public:
  static constexpr float kGap = -777.0f;

  GappedMatrix(int64_t rows, int64_t columns)
      : values_(static_cast<size_t>(rows * (columns + 3)), kGap),
        matrix_{values_.data(), rows, columns, columns + 3} {}
  explicit GappedMatrix(const Array& array) : GappedMatrix(array.size(0), array.size(1)) {
    for (int64_t r = 0; r < matrix_.rows; ++r) {
      for (int64_t c = 0; c < matrix_.columns; ++c) {
        matrix_.row(r)[c] = static_cast<float>(array.at(r, c));
      }
    }
  }

  operator Matrix() { return matrix_; }
  operator ConstMatrix() const { return matrix_; }
  Array array() const {
    Array result({matrix_.rows, matrix_.columns});
    for (int64_t r = 0; r < matrix_.rows; ++r) {
      for (int64_t c = 0; c < matrix_.columns; ++c) result.at(r, c) = double{matrix_.row(r)[c]};
      for (int64_t c = matrix_.columns; c < matrix_.stride; ++c) {
        EXPECT_EQ(matrix_.row(r)[c], kGap) << "row " << r;
      }
    }
    return result;
  }

 private:
  std::vector<float> values_;
  Matrix matrix_;
};

class BackendTest : public testing::Test {
 protected:
  StagedBackend backend_;
};

TEST(CpuBackend, RejectsNegativeThreads) { EXPECT_THROW(make_cpu_backend(-1), ModelError); }

TEST_F(BackendTest, GemmInAllFourForms) {
  const Array a = random_normal({5, 7}, 1), b = random_normal({7, 9}, 2),
              c = random_normal({5, 9}, 3);
  const auto transposed = [](const Array& m) {
    Array t({m.size(1), m.size(0)});
    for (int64_t i = 0; i < m.size(0); ++i) {
      for (int64_t j = 0; j < m.size(1); ++j) t.at(j, i) = m.at(i, j);
    }
    return t;
  };
  Array want = c;
  for (int64_t i = 0; i < 5; ++i) {
    for (int64_t j = 0; j < 9; ++j) {
      double sum = 0.0;
      for (int64_t l = 0; l < 7; ++l) sum += a.at(i, l) * b.at(l, j);
      want.at(i, j) = sum + c.at(i, j);
    }
  }
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      GappedMatrix added(c), fresh(5, 9), onto(c);
      const GappedMatrix left(ta ? transposed(a) : a), right(tb ? transposed(b) : b);
      backend_.gemm(ta, tb, left, right, added, fresh);
      EXPECT_TRUE(expect_close("gemm", fresh.array(), want, 1e-6));
      // The addend may be the result; without one, its old content counts for nothing.
      const ConstMatrix nothing;
      backend_.gemm(ta, tb, left, right, nothing, onto);
      Array alone = want;
      for (size_t i = 0; i < alone.data.size(); ++i) alone.data[i] -= c.data[i];
      EXPECT_TRUE(expect_close("product", onto.array(), alone, 1e-6));
    }
  }
}

Array oracle_rmsnorm(const Array& x, const Array& weight, double eps) {
  Array y = x;
  for (int64_t r = 0; r < x.size(0); ++r) {
    double squares = 0.0;
    for (int64_t c = 0; c < x.size(1); ++c) squares += x.at(r, c) * x.at(r, c);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.size(1)) + eps);
    for (int64_t c = 0; c < x.size(1); ++c) y.at(r, c) *= scale * weight.at(c);
  }
  return y;
}

// Rows and columns beside the sizes of chunks and lanes.
constexpr std::pair<int64_t, int64_t> kShapes[] = {{1, 2}, {3, 15}, {65, 16}, {130, 37}, {0, 4}};

TEST_F(BackendTest, Rmsnorm) {
  for (const auto& [rows, columns] : kShapes) {
    SCOPED_TRACE(testing::Message() << rows << " x " << columns);
    Array x = random_normal({rows, columns}, 1), weight = random_normal({columns}, 2, 1.0, 0.2);
    const Array dy = random_normal({rows, columns}, 3), old = random_normal({rows, columns}, 4);
    const std::vector<float> w = to_floats(weight);
    GappedMatrix y(rows, columns);
    backend_.rmsnorm(GappedMatrix(x), w.data(), 1e-5f, y);
    EXPECT_TRUE(expect_close("y", y.array(), oracle_rmsnorm(x, weight, 1e-5), 1e-6));

    const auto loss = [&] { return hax_test::dot(oracle_rmsnorm(x, weight, 1e-5), dy); };
    for (const bool accumulate : {false, true}) {
      GappedMatrix dx(rows, columns);
      const GappedMatrix addend(old);
      std::vector<float> dw(static_cast<size_t>(columns), 0.25f);
      backend_.rmsnorm_backward(GappedMatrix(x), w.data(), 1e-5f, GappedMatrix(dy),
                                accumulate ? ConstMatrix(addend) : ConstMatrix{}, dx, dw.data());
      Array d_weight = to_array({columns}, dw), d_x = dx.array();
      for (double& value : d_weight.data) value -= 0.25;
      if (accumulate) {
        for (size_t i = 0; i < d_x.data.size(); ++i) d_x.data[i] -= old.data[i];
      }
      const hax_test::FiniteDifferenceOptions options{.samples = 40, .tolerance = 1e-5};
      EXPECT_TRUE(hax_test::expect_gradient("d_weight", loss, weight, d_weight, options));
      EXPECT_TRUE(hax_test::expect_gradient("dx", loss, x, d_x, options));
    }
  }
}

TEST_F(BackendTest, GatedSum) {
  for (const bool with_o : {true, false}) {
    for (const auto& [rows, columns] : kShapes) {
      SCOPED_TRACE(testing::Message() << rows << " x " << columns << (with_o ? " with o" : ""));
      Array y = random_normal({rows, columns}, 1), o = random_normal({rows, columns}, 2);
      // Gates far out, where a careless exponential overflows.
      Array gate = random_normal({rows, columns}, 3, 0.0, 2.0), E = random_normal({columns}, 4);
      if (rows > 0) gate.data.front() = -120.0, gate.data.back() = 120.0;
      const Array d_out = random_normal({rows, columns}, 5);
      const auto oracle = [&] {
        Array out = y;
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < columns; ++c) {
            if (with_o) out.at(r, c) += E.at(c) * o.at(r, c);
            out.at(r, c) *= hax_test::silu(gate.at(r, c));
          }
        }
        return out;
      };
      const auto loss = [&] { return hax_test::dot(oracle(), d_out); };
      const GappedMatrix o_given(o);
      const ConstMatrix o_matrix = with_o ? ConstMatrix(o_given) : ConstMatrix{};
      const std::vector<float> e = to_floats(E);
      GappedMatrix out(rows, columns), dy(rows, columns), d_o(rows, columns), d_gate(rows, columns);
      std::vector<float> dE(static_cast<size_t>(columns), 0.0f);
      backend_.gated_sum(GappedMatrix(y), o_matrix, e.data(), GappedMatrix(gate), out);
      EXPECT_TRUE(expect_close("out", out.array(), oracle(), 1e-6));
      backend_.gated_sum_backward(GappedMatrix(y), o_matrix, e.data(), GappedMatrix(gate),
                                  GappedMatrix(d_out), dy, d_o, d_gate, dE.data());
      const hax_test::FiniteDifferenceOptions options{.samples = 40, .tolerance = 1e-5};
      EXPECT_TRUE(hax_test::expect_gradient("dy", loss, y, dy.array(), options));
      EXPECT_TRUE(hax_test::expect_gradient("d_gate", loss, gate, d_gate.array(), options));
      if (with_o) {
        EXPECT_TRUE(hax_test::expect_gradient("d_o", loss, o, d_o.array(), options));
        EXPECT_TRUE(hax_test::expect_gradient("dE", loss, E, to_array({columns}, dE), options));
      }
    }
  }
}

TEST_F(BackendTest, GatedRmsnormIsTheNormOfTheGatedSum) {
  for (const bool with_o : {true, false}) {
    for (const auto& [rows, columns] : kShapes) {
      SCOPED_TRACE(testing::Message() << rows << " x " << columns << (with_o ? " with o" : ""));
      const GappedMatrix y(random_normal({rows, columns}, 1)), o(random_normal({rows, columns}, 2)),
          gate(random_normal({rows, columns}, 3)), d_out(random_normal({rows, columns}, 4));
      const std::vector<float> E = to_floats(random_normal({columns}, 5)),
                               weight = to_floats(random_normal({columns}, 6, 1.0, 0.2));
      const ConstMatrix o_given = with_o ? ConstMatrix(o) : ConstMatrix{};
      GappedMatrix sum(rows, columns), want(rows, columns), got(rows, columns);
      backend_.gated_sum(y, o_given, E.data(), gate, sum);
      backend_.rmsnorm(sum, weight.data(), 1e-5f, want);
      backend_.gated_rmsnorm(y, o_given, E.data(), gate, weight.data(), 1e-5f, got);
      EXPECT_TRUE(expect_close("out", got.array(), want.array(), 1e-6));

      struct Gradients {
        GappedMatrix y, o, gate;
        std::vector<float> E, weight;
      };
      const auto size = static_cast<size_t>(columns);
      const Gradients empty = {{rows, columns},
                               {rows, columns},
                               {rows, columns},
                               std::vector<float>(size, 0.5f),
                               std::vector<float>(size, 0.25f)};
      Gradients apart = empty, joined = empty;
      GappedMatrix d_sum(rows, columns);
      const Matrix none;
      backend_.rmsnorm_backward(sum, weight.data(), 1e-5f, d_out, none, d_sum, apart.weight.data());
      backend_.gated_sum_backward(y, o_given, E.data(), gate, d_sum, apart.y,
                                  with_o ? Matrix(apart.o) : none, apart.gate, apart.E.data());
      backend_.gated_rmsnorm_backward(y, o_given, E.data(), gate, weight.data(), 1e-5f, d_out,
                                      joined.y, with_o ? Matrix(joined.o) : none, joined.gate,
                                      joined.E.data(), joined.weight.data());
      EXPECT_TRUE(expect_close("dy", joined.y.array(), apart.y.array(), 1e-5));
      EXPECT_TRUE(expect_close("d_gate", joined.gate.array(), apart.gate.array(), 1e-5));
      EXPECT_TRUE(expect_close("d_weight", to_array({columns}, joined.weight),
                               to_array({columns}, apart.weight), 1e-5));
      if (!with_o) continue;
      EXPECT_TRUE(expect_close("d_o", joined.o.array(), apart.o.array(), 1e-5));
      EXPECT_TRUE(
          expect_close("dE", to_array({columns}, joined.E), to_array({columns}, apart.E), 1e-5));
    }
  }
}

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

TEST_F(BackendTest, CrossEntropy) {
  Array logits = random_normal({70, 37}, 1, 0.0, 3.0);
  logits.at(2, 5) = logits.at(2, 9) = 50.0;  // a tie: the first wins
  std::vector<int32_t> label(70);
  for (size_t r = 0; r < label.size(); ++r) label[r] = static_cast<int32_t>(r * 7 % 37);
  std::vector<int32_t> prediction(70);
  std::vector<float> loss(70);
  const auto mean_loss = [&] {
    double sum = 0.0;
    for (int64_t r = 0; r < 70; ++r) {
      double total = 0.0;
      for (int64_t c = 0; c < 37; ++c) total += std::exp(logits.at(r, c));
      sum += std::log(total) - logits.at(r, label[static_cast<size_t>(r)]);
    }
    return sum / 70.0;
  };
  GappedMatrix untouched(logits), gradient(70, 37);
  backend_.cross_entropy(label.data(), nullptr, untouched, loss.data(), prediction.data(), {});
  EXPECT_TRUE(expect_close("logits", untouched.array(), logits, 1e-7));
  const float scale = 1.0f / 70.0f;
  backend_.cross_entropy(label.data(), &scale, untouched, loss.data(), prediction.data(), gradient);
  double sum = 0.0;
  for (const float value : loss) sum += double{value};
  EXPECT_NEAR(sum / 70.0, mean_loss(), 1e-6 * mean_loss());
  EXPECT_TRUE(hax_test::expect_gradient("logits", mean_loss, logits, gradient.array(),
                                        {.samples = 200, .tolerance = 1e-5}));
  EXPECT_EQ(prediction[2], 5);
  for (int64_t r = 0; r < 70; ++r) {
    const auto* row = &logits.data[static_cast<size_t>(r * 37)];
    EXPECT_EQ(prediction[static_cast<size_t>(r)], std::max_element(row, row + 37) - row);
  }
}

TEST_F(BackendTest, CrossEntropyOfPaddingIsNothing) {
  const Array logits = random_normal({3, 37}, 1);
  const int32_t label[] = {4, -1, 36};
  const float scale = 0.5f;
  float loss[3];
  int32_t prediction[3];
  GappedMatrix gradient(logits);
  backend_.cross_entropy(label, &scale, GappedMatrix(logits), loss, prediction, gradient);
  EXPECT_EQ(loss[1], 0.0f);
  EXPECT_GT(loss[0], 0.0f);
  const Array got = gradient.array();
  for (int64_t c = 0; c < 37; ++c) EXPECT_EQ(got.at(1, c), 0.0);
  EXPECT_LT(got.at(2, 36), 0.0);
}

// More items than a block has warps; some ask nothing, one asks more than a warp has lanes.
TEST_F(BackendTest, ScoresOfABatch) {
  std::vector<int32_t> offset = {0}, prediction, target;
  std::vector<float> loss;
  double want_loss = 0.0, want_accuracy = 0.0;
  int64_t asking = 0;
  for (int32_t item = 0; item < 21; ++item) {
    const int32_t asks = item == 5 ? 100 : item % 4;
    int32_t right = 0;
    for (int32_t j = 0; j < asks; ++j) {
      const bool hit = (item * 7 + j) % 3 == 0;
      right += hit;
      target.push_back(j);
      prediction.push_back(hit ? j : j + 1);
      loss.push_back(0.25f * static_cast<float>(j + item));
      want_loss += double{loss.back()};
    }
    offset.push_back(offset.back() + asks);
    if (asks == 0) continue;
    want_accuracy += static_cast<double>(right) / asks;
    ++asking;
  }
  BatchScores scores;
  backend_.score_batch(loss.data(), prediction.data(), target.data(), offset.data(), 21, &scores);
  EXPECT_NEAR(scores.loss, want_loss / static_cast<double>(loss.size()), 1e-12);
  EXPECT_NEAR(scores.accuracy, want_accuracy / static_cast<double>(asking), 1e-12);
  EXPECT_EQ(scores.items, asking);
}

// Two steps by hand: decoupled decay first, then the bias-corrected update.
TEST_F(BackendTest, AdamwAgainstTheFormula) {
  constexpr int64_t kCount = 5000;
  const Array start = random_normal({kCount}, 1), g1 = random_normal({kCount}, 2),
              g2 = random_normal({kCount}, 3);
  std::vector<float> value = to_floats(start), first(kCount, 0.0f), second(kCount, 0.0f);
  const AdamwArgs args{.lr = 0.002, .step = 1};
  backend_.adamw(args, kCount, to_floats(g1).data(), value.data(), first.data(), second.data());
  AdamwArgs next = args;
  next.step = 2;
  next.lr = 0.003;
  backend_.adamw(next, kCount, to_floats(g2).data(), value.data(), first.data(), second.data());

  Array want({kCount}), m({kCount}), v({kCount});
  for (int64_t i = 0; i < kCount; ++i) {
    double p = start.at(i);
    m.at(i) = 0.1 * g1.at(i);
    v.at(i) = 0.001 * g1.at(i) * g1.at(i);
    p -= 0.002 * 0.01 * p;
    p -= 0.002 * (m.at(i) / 0.1) / (std::sqrt(v.at(i) / 0.001) + 1e-8);
    m.at(i) = 0.9 * m.at(i) + 0.1 * g2.at(i);
    v.at(i) = 0.999 * v.at(i) + 0.001 * g2.at(i) * g2.at(i);
    p -= 0.003 * 0.01 * p;
    p -= 0.003 * (m.at(i) / (1.0 - 0.81)) / (std::sqrt(v.at(i) / (1.0 - 0.998001)) + 1e-8);
    want.at(i) = p;
  }
  EXPECT_TRUE(expect_close("value", to_array({kCount}, value), want, 1e-6));
  EXPECT_TRUE(expect_close("first moment", to_array({kCount}, first), m, 1e-6));
  EXPECT_TRUE(expect_close("second moment", to_array({kCount}, second), v, 1e-5));
}

TEST_F(BackendTest, Bf16RoundsToNearestEven) {
  const float values[] = {1.0f,        1.00390625f, 1.01171875f, -3.0f,  0.0f,
                          1.00390637f, INFINITY,    NAN,         3.4e38f};
  uint16_t bits[9];
  float back[9];
  const Tokens rounded(bits, 3, 3, 3, Element::kBf16);
  backend_.copy(compact(values, 3, 3), rounded);
  backend_.copy(rounded, compact(back, 3, 3));
  const float want[] = {1.0f, 1.0f, 1.015625f, -3.0f, 0.0f, 1.0078125f, INFINITY, NAN, INFINITY};
  for (int i = 0; i < 9; ++i) {
    if (std::isnan(want[i])) {
      EXPECT_TRUE(std::isnan(back[i]));
    } else {
      EXPECT_EQ(back[i], want[i]) << i;
    }
  }
}

TEST_F(BackendTest, PicksAreTheLargestNoise) {
  const float noise[] = {0.3f, 0.9f, 0.9f, 0.1f, 0.5f, 0.8f};
  const uint8_t mask[] = {1, 1, 1, 1, 0, 0};
  int32_t pick[8];
  backend_.top_positions(noise, nullptr, nullptr, 1, 1, 6, 4, pick);
  EXPECT_EQ(std::vector<int32_t>(pick, pick + 4), (std::vector<int32_t>{1, 2, 5, 4}));
  backend_.top_positions(noise, mask, nullptr, 1, 1, 6, 4, pick);
  EXPECT_EQ(std::vector<int32_t>(pick, pick + 4), (std::vector<int32_t>{1, 2, 0, 3}));
  backend_.top_positions(noise, mask, nullptr, 1, 1, 6, 5, pick);
  EXPECT_EQ(pick[4], 5) << "padding fills up a short sequence";
  const int32_t offset[] = {0, 2, 6};
  backend_.top_positions(noise, nullptr, offset, 2, 2, 6, 4, pick);
  EXPECT_EQ(std::vector<int32_t>(pick, pick + 8), (std::vector<int32_t>{1, 0, -1, -1, 0, 3, 2, 1}));
  backend_.top_positions(noise, nullptr, offset, 1, 2, 6, 4, pick);
  EXPECT_EQ(std::vector<int32_t>(pick, pick + 8),
            (std::vector<int32_t>{1, 0, -1, -1, -1, -1, -1, -1}));
}

// Every position is picked equally often, and none twice in a row.
TEST_F(BackendTest, PicksAreUniformWithoutReplacement) {
  constexpr int64_t kSequences = 4000, kLength = 20, kPicks = 6;
  std::vector<float> noise(kSequences * kLength);
  std::vector<int32_t> pick(kSequences * kPicks);
  backend_.random_uniform({3, RandomPurpose::kRankingNoise, 1, 2, 0}, kSequences * kLength,
                          noise.data());
  backend_.top_positions(noise.data(), nullptr, nullptr, kSequences, kSequences, kLength, kPicks,
                         pick.data());
  std::vector<int64_t> times(kLength, 0);
  for (int64_t s = 0; s < kSequences; ++s) {
    std::vector<int32_t> row(pick.begin() + s * kPicks, pick.begin() + (s + 1) * kPicks);
    std::sort(row.begin(), row.end());
    ASSERT_EQ(std::adjacent_find(row.begin(), row.end()), row.end());
    for (const int32_t position : row) ++times.at(static_cast<size_t>(position));
  }
  const double share = static_cast<double>(kPicks) / kLength;
  const double deviation = std::sqrt(kSequences * share * (1.0 - share));
  for (const int64_t count : times) {
    EXPECT_NEAR(static_cast<double>(count), kSequences * share, 5.0 * deviation);
  }
}

}  // namespace
}  // namespace joint_recall
