// Steps that a backend does in one pass against the same steps one after another, in the backend's element type. Rows
// beside the sizes of tiles, widths that fit whole groups and widths that don't.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>

#include "model_test_backend.hpp"
#include "support/oracle_math.hpp"

namespace joint_recall {
namespace {

// Activations on the backend.
class Activations {
 public:
  Activations(Backend& backend, int64_t rows, int64_t columns, uint64_t seed, double scale = 1.0)
      : backend_(backend), rows_(rows), columns_(columns), stride_((columns + 7) / 8 * 8) {
    const auto values = hax_test::random_normal({std::max<int64_t>(rows, 1), stride_}, seed);
    std::vector<uint16_t> halves;
    std::vector<float> floats;
    for (const double value : values.data) {
      const auto wide = static_cast<float>(scale * value);
      halves.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(wide) >> 16));
      floats.push_back(std::bit_cast<float>(uint32_t{halves.back()} << 16));
    }
    if (is_bf16()) {
      halves_.emplace(backend, halves);
    } else {
      floats_.emplace(backend, floats);
    }
  }
  operator Tokens() const {
    void* data = is_bf16() ? static_cast<void*>(halves_->data()) : floats_->data();
    return {data, rows_, columns_, stride_, backend_.activations()};
  }
  operator ConstTokens() const { return Tokens(*this); }
  std::vector<double> values() const {
    std::vector<double> result;
    const std::vector<uint16_t> halves = is_bf16() ? halves_->values() : std::vector<uint16_t>{};
    const std::vector<float> floats = is_bf16() ? std::vector<float>{} : floats_->values();
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < columns_; ++c) {
        const auto at = static_cast<size_t>(r * stride_ + c);
        result.push_back(
            double{is_bf16() ? std::bit_cast<float>(uint32_t{halves[at]} << 16) : floats[at]});
      }
    }
    return result;
  }

 private:
  bool is_bf16() const { return backend_.activations() == Element::kBf16; }

  Backend& backend_;
  int64_t rows_, columns_, stride_;
  std::optional<OnBackend<uint16_t>> halves_;
  std::optional<OnBackend<float>> floats_;
};

class Floats {
 public:
  Floats(Backend& backend, int64_t rows, int64_t columns, uint64_t seed, double scale = 1.0)
      : rows_(rows), columns_(columns), memory_(backend, drawn(rows * columns, seed, scale)) {}
  float* data() const { return memory_.data(); }
  operator Matrix() const { return compact(memory_.data(), rows_, columns_); }
  std::vector<double> values() const {
    const std::vector<float> floats = memory_.values();
    return {floats.begin(), floats.end()};
  }

 private:
  static std::vector<float> drawn(int64_t count, uint64_t seed, double scale) {
    std::vector<float> values;
    for (const double value : hax_test::random_normal({std::max<int64_t>(count, 1)}, seed).data) {
      values.push_back(static_cast<float>(scale * value));
    }
    return values;
  }

  int64_t rows_, columns_;
  OnBackend<float> memory_;
};

void expect_near(const char* what, const std::vector<double>& got,
                 const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size()) << what;
  double apart = 0.0, whole = 0.0, worst = 0.0;
  size_t where = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(got[i] - want[i]);
    if (!(error <= worst)) worst = error, where = i;
    apart += error * error;
    whole += want[i] * want[i];
  }
  EXPECT_LE(std::sqrt(apart), 1e-2 * std::sqrt(whole) + 1e-6)
      << what << ": worst at " << where << ": " << (got.empty() ? 0.0 : got[where]) << ", wanted "
      << (got.empty() ? 0.0 : want[where]);
}

class PartsTest : public testing::Test {
 protected:
  std::unique_ptr<Backend> own_ = make_test_backend(Precision::kBf16);
  Backend& backend_ = *own_;
};

struct Shape {
  int64_t rows, hidden, channels, projected;
};
constexpr Shape kShapes[] = {{1, 64, 128, 328}, {129, 64, 128, 256},  {300, 64, 128, 40},
                             {47, 32, 64, 104}, {200, 128, 256, 584}, {33, 48, 96, 120},
                             {130, 32, 256, 64}};

TEST_F(PartsTest, NormAndProjection) {
  for (const Shape& s : kShapes) {
    SCOPED_TRACE(testing::Message() << s.rows << " x " << s.hidden << " -> " << s.projected);
    const Floats x(backend_, s.rows, s.hidden, 1), weight(backend_, 1, s.hidden, 2);
    const Activations W(backend_, s.projected, s.hidden, 3, 0.1);
    std::vector<uint8_t> mask_values(static_cast<size_t>(s.rows), 1);
    mask_values[mask_values.size() / 2] = 0;
    const OnBackend<uint8_t> mask(backend_, mask_values);
    struct Result {
      Activations normed, y;
    };
    const auto fresh = [&] {
      return Result{{backend_, s.rows, s.hidden, 11}, {backend_, s.rows, s.projected, 12}};
    };
    const Result one = fresh(), many = fresh();
    const RowNorm norm = {weight.data(), 1e-5f, nullptr};
    backend_.norm_linear(Matrix(x), norm, mask.data(), W, one.normed, one.y);
    backend_.Backend::norm_linear(Matrix(x), norm, mask.data(), W, many.normed, many.y);
    expect_near("normed", one.normed.values(), many.normed.values());
    expect_near("y", one.y.values(), many.y.values());
  }
}

TEST_F(PartsTest, GateAndProjection) {
  for (const Shape& s : kShapes) {
    for (const bool with_norm : {true, false}) {
      for (const bool with_o : {true, false}) {
        SCOPED_TRACE(testing::Message() << s.rows << " x " << s.channels << " -> " << s.hidden
                                        << (with_norm ? " norm" : "") << (with_o ? " o" : ""));
        const Activations y(backend_, s.rows, s.channels, 1), o(backend_, s.rows, s.channels, 2),
            gate(backend_, s.rows, s.channels, 3), W(backend_, s.hidden, s.channels, 5, 0.1);
        const Floats E(backend_, 1, s.channels, 6), weight(backend_, 1, s.channels, 7),
            addend(backend_, s.rows, s.hidden, 8);
        GatedSum sum = {y, {}, nullptr, gate};
        if (with_o) sum.o = o, sum.E = E.data();
        const RowNorm norm = with_norm ? RowNorm{weight.data(), 1e-5f, nullptr} : RowNorm{};
        struct Result {
          Activations gated;
          Floats out;
        };
        const auto fresh = [&] {
          return Result{{backend_, s.rows, s.channels, 11}, {backend_, s.rows, s.hidden, 15}};
        };
        const Result one = fresh(), many = fresh();
        backend_.gated_linear(sum, norm, W, Matrix(addend), one.gated, Matrix(one.out));
        backend_.Backend::gated_linear(sum, norm, W, Matrix(addend), many.gated, Matrix(many.out));
        expect_near("gated", one.gated.values(), many.gated.values());
        expect_near("out", one.out.values(), many.out.values());
      }
    }
  }
}

TEST_F(PartsTest, HeadAndEmbedding) {
  for (const int64_t hidden : {32, 64, 128, 40}) {
    for (const int64_t count : {1, 63, 200}) {
      SCOPED_TRACE(testing::Message() << count << " x " << hidden);
      constexpr int64_t kTokens = 230, kSymbols = 100;
      const Floats stream(backend_, kTokens, hidden, 1), weight(backend_, 1, hidden, 2);
      const Activations table(backend_, kSymbols, hidden, 3);
      std::vector<int32_t> position_values, target_values, token_values;
      for (int32_t i = 0; i < count; ++i) {
        position_values.push_back(i + i / 8);
        target_values.push_back(i % 7 == 6 ? -1 : i * 13 % int32_t{kSymbols});
      }
      for (int32_t t = 0; t < kTokens; ++t) token_values.push_back(t * t % int32_t{kSymbols});
      const OnBackend<int32_t> positions(backend_, position_values),
          targets(backend_, target_values), tokens(backend_, token_values);
      const OnBackend<float> scale(backend_, {0.125f});
      struct Result {
        Floats loss, rows, logits, gradient, d_table;
        Activations normed, d_logits, d_stream, d_rows;
        OnBackend<int32_t> prediction;
      };
      const auto fresh = [&] {
        return Result{{backend_, 1, count, 11},
                      {backend_, count, hidden, 12},
                      {backend_, count, kSymbols, 13},
                      {backend_, 1, hidden, 14},
                      {backend_, kSymbols, hidden, 15},
                      {backend_, count, hidden, 16},
                      {backend_, count, kSymbols, 17},
                      {backend_, kTokens, hidden, 18},
                      {backend_, count, hidden, 19},
                      {backend_, std::vector<int32_t>(static_cast<size_t>(count))}};
      };
      const Result one = fresh(), many = fresh();
      const auto terms = [&](const Result& r) {
        HeadTerms h;
        h.count = count;
        h.stream = Matrix(stream);
        h.positions = positions.data();
        h.targets = targets.data();
        h.norm = {weight.data(), 1e-5f, r.gradient.data()};
        h.table = table;
        h.scale = scale.data();
        h.loss = r.loss.data();
        h.prediction = r.prediction.data();
        h.normed = r.normed;
        h.d_logits = r.d_logits;
        h.d_stream = r.d_stream;
        h.rows = r.rows;
        h.logits = r.logits;
        h.d_rows = r.d_rows;
        return h;
      };
      backend_.head(terms(one));
      backend_.scatter_add_rows(one.d_stream, tokens.data(), one.d_table);
      backend_.finish_sums();
      backend_.Backend::head(terms(many));
      backend_.scatter_add_rows(many.d_stream, tokens.data(), many.d_table);
      backend_.finish_sums();
      expect_near("loss", one.loss.values(), many.loss.values());
      expect_near("normed", one.normed.values(), many.normed.values());
      expect_near("d_logits", one.d_logits.values(), many.d_logits.values());
      expect_near("d_stream", one.d_stream.values(), many.d_stream.values());
      expect_near("norm's gradient", one.gradient.values(), many.gradient.values());
      EXPECT_EQ(one.prediction.values(), many.prediction.values());
      // The table's gradient against a plain sum.
      std::vector<double> want = fresh().d_table.values();
      const std::vector<double> d = one.d_stream.values();
      for (int64_t t = 0; t < kTokens; ++t) {
        for (int64_t c = 0; c < hidden; ++c) {
          want[static_cast<size_t>(token_values[static_cast<size_t>(t)] * hidden + c)] +=
              d[static_cast<size_t>(t * hidden + c)];
        }
      }
      expect_near("table's gradient", one.d_table.values(), want);
    }
  }
}

}  // namespace
}  // namespace joint_recall
