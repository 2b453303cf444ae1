// The backend's products, norms and gates against plain fp64 loops.
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

}  // namespace
}  // namespace joint_recall
