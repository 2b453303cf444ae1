#include <algorithm>
#include <cmath>

#include "hash/hash_case.hpp"

namespace hax_test {
namespace {

struct ScoreCase {
  int64_t batch = 2, length = 60, heads = 2, features = 8;
  int32_t normalization = HAX_KEY_SCORE_NORM_FEATURE;
  double k_scale = 0.4;
  std::vector<int64_t> cu_seqlens = {};
  hax_data_type type = kFp32;
  hax_data_type weight_type = kFp32;
  hax_data_type index_type = kInt32;
  Layout layout = Layout::compact;
  double tolerance = 2e-6;  // everything behind the inputs' rounding is fp32, but for:
  // On CUDA 16-bit activations and their weights keep 16 bits inside the MLP.
  double mlp_tolerance() const {
    return tests_use_cuda() && type.bits == 16 ? std::max(tolerance, 3e-5) : tolerance;
  }
  uint64_t seed = 1;

  int64_t width() const { return 2 * features; }
  Array tokens(uint64_t offset) const {
    return round_to(random_normal({batch, length, heads, features}, seed + offset), type);
  }
  Array weight(int64_t rows, uint64_t offset) const {
    const double deviation = 1.0 / std::sqrt(static_cast<double>(width()));
    return round_to(random_normal({rows, width()}, seed + offset, 0.0, 1.4 * deviation),
                    weight_type);
  }
  Array bias(int64_t rows, uint64_t offset) const {
    return round_to(random_normal({rows}, seed + offset, 0.0, 0.3), kFp32);
  }
  // Inputs as the operator sees them; k not yet scaled.
  KeyScoreArgs values() const {
    KeyScoreArgs args;
    args.q = tokens(0);
    args.k = tokens(1);
    args.w1 = weight(width(), 2);
    args.b1 = bias(width(), 3);
    args.w2 = weight(width(), 4);
    args.b2 = bias(width(), 5);
    args.w3 = weight(1, 6);
    args.b3 = bias(1, 7);
    args.normalization = normalization == HAX_KEY_SCORE_NORM_FEATURE
                             ? QueryNormalization::kFeature
                             : QueryNormalization::kSequence;
    args.cu_seqlens = cu_seqlens;
    return args;
  }
  KeyScoreArgs oracle_args() const {
    KeyScoreArgs args = values();
    for (double& k : args.k.data) k *= static_cast<double>(static_cast<float>(k_scale));
    return args;
  }
  // Gradients of about every third score, as the ranking loss leaves most of them 0. (B, L, H)
  Array dscore() const {
    Array d = round_to(random_normal({batch, length, heads}, seed + 8), kFp32);
    for (size_t i = 0; i < d.data.size(); ++i)
      d.data[i] = i * 2654435761u % 97 < 33 ? d.data[i] : 0;
    return d;
  }
};

std::string describe(const ScoreCase& c) {
  return "B=" + std::to_string(c.batch) + " L=" + std::to_string(c.length) +
         " H=" + std::to_string(c.heads) + " N=" + std::to_string(c.features) +
         " normalization=" + std::to_string(c.normalization) + " " + name_of(c.type) + " weights " +
         name_of(c.weight_type) + " " + name_of(c.layout) + (c.cu_seqlens.empty() ? "" : " packed");
}

// The arguments that forward and backward share.
struct ScoreInputs {
  Argument q, k, W1, b1, W2, b2, W3, b3, cu_seqlens;

  ScoreInputs(const ScoreCase& c, const KeyScoreArgs& v)
      : q(Argument::input(v.q, c.type, c.layout)),
        k(Argument::input(v.k, c.type, c.layout)),
        W1(Argument::input(v.w1, c.weight_type, c.layout)),
        b1(Argument::input(v.b1, kFp32, c.layout)),
        W2(Argument::input(v.w2, c.weight_type, c.layout)),
        b2(Argument::input(v.b2, kFp32, c.layout)),
        W3(Argument::input(v.w3, c.weight_type, c.layout)),
        b3(Argument::input(v.b3)),
        cu_seqlens(boundaries(c.cu_seqlens, c.index_type)) {}

  template <class Args>
  void fill(Args& args, const ScoreCase& c) const {
    args.q = q.arg();
    args.k = k.arg();
    args.W1 = W1.arg();
    args.b1 = b1.arg();
    args.W2 = W2.arg();
    args.b2 = b2.arg();
    args.W3 = W3.arg();
    args.b3 = b3.arg();
    args.cu_seqlens = cu_seqlens.arg();
    args.k_scale = static_cast<float>(c.k_scale);
    args.normalization = c.normalization;
  }
};

Argument score(const ScoreCase& c, const KeyScoreArgs& values, const hax_context* context) {
  const ScoreInputs inputs(c, values);
  const Argument out = Argument::output({c.batch, c.heads, c.length}, kFp32, c.layout);
  hax_key_score_forward_args args = {};
  inputs.fill(args, c);
  args.score = out.arg();
  EXPECT_EQ(run(hax_key_score_forward_workspace, hax_key_score_forward, context, args), HAX_SUCCESS)
      << hax_last_error();
  EXPECT_TRUE(out.sentinels_intact());
  return out;
}

struct ScoreGradients {
  Argument dW1, db1, dW2, db2, dW3, db3;

  std::vector<Argument> all() const { return {dW1, db1, dW2, db2, dW3, db3}; }
};

ScoreGradients outputs(const ScoreCase& c) {
  const int64_t width = c.width();
  const auto out = [&](const std::vector<int64_t>& shape) {
    return Argument::output(shape, kFp32, c.layout);
  };
  return {out({width, width}), out({width}),    out({width, width}),
          out({width}),        out({1, width}), out({1})};
}

void backward(const ScoreCase& c, const Array& dscore, const ScoreGradients& out,
              const hax_context* context) {
  const ScoreInputs inputs(c, c.values());
  const Argument dscore_arg = Argument::input(swap_last_two(dscore), kFp32, c.layout);
  hax_key_score_backward_args args = {};
  inputs.fill(args, c);
  args.dscore = dscore_arg.arg();
  args.dW1 = out.dW1.arg();
  args.db1 = out.db1.arg();
  args.dW2 = out.dW2.arg();
  args.db2 = out.db2.arg();
  args.dW3 = out.dW3.arg();
  args.db3 = out.db3.arg();
  args.deterministic = 1;
  EXPECT_EQ(run(hax_key_score_backward_workspace, hax_key_score_backward, context, args),
            HAX_SUCCESS)
      << hax_last_error();
  for (const Argument& gradient : out.all()) EXPECT_TRUE(gradient.sentinels_intact());
}

void expect_close_to_oracle(const ScoreCase& c, const hax_context* context) {
  SCOPED_TRACE(describe(c));
  const KeyScoreArgs want_args = c.oracle_args();
  const Array want = swap_last_two(oracle_key_score(want_args));
  EXPECT_TRUE(
      expect_close("score", score(c, c.values(), context).array(), want, c.mlp_tolerance()));
  const ScoreGradients got = outputs(c);
  backward(c, c.dscore(), got, context);
  const KeyScoreGrads grads = oracle_key_score_backward(want_args, c.dscore());
  EXPECT_TRUE(expect_close("dW1", got.dW1.array(), grads.dw1, c.mlp_tolerance()));
  EXPECT_TRUE(expect_close("db1", got.db1.array(), grads.db1, c.mlp_tolerance()));
  EXPECT_TRUE(expect_close("dW2", got.dW2.array(), grads.dw2, c.mlp_tolerance()));
  EXPECT_TRUE(expect_close("db2", got.db2.array(), grads.db2, c.mlp_tolerance()));
  EXPECT_TRUE(expect_close("dW3", got.dW3.array(), grads.dw3, c.mlp_tolerance()));
  double absolute = 0.0;  // of a sum of signed numbers, which may all but cancel
  for (const double d : c.dscore().data) absolute += std::abs(d);
  EXPECT_NEAR(got.db3.array().at(0), grads.db3.at(0), 1e-6 * absolute);
}

constexpr int32_t kNormalizations[] = {HAX_KEY_SCORE_NORM_FEATURE, HAX_KEY_SCORE_NORM_SEQUENCE};

TEST(KeyScore, HostileShapes) {
  const TestContext context;
  for (const int32_t normalization : kNormalizations) {
    for (const int64_t length : {0, 1, 2, 5, 6, 7, 47, 48, 49, 383, 384, 385, 800}) {
      expect_close_to_oracle({.length = length, .normalization = normalization}, context);
    }
    for (const int64_t features : {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 33, 100, 127, 256}) {
      expect_close_to_oracle({.length = 50, .features = features, .normalization = normalization},
                             context);
    }
    expect_close_to_oracle({.batch = 0, .normalization = normalization}, context);
    expect_close_to_oracle({.heads = 0, .normalization = normalization}, context);
    expect_close_to_oracle({.k_scale = -3.5}, context);
  }
}

TEST(KeyScore, EveryTypeAndLayoutOnEveryCpuLevel) {
  for (const std::string& level : available_cpu_levels()) {
    SCOPED_TRACE(level);
    const TestContext context(2, level.c_str());
    for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
      for (const Layout layout : kLayouts) {
        for (const bool typed_weight : {false, true}) {
          for (const int32_t normalization : kNormalizations) {
            expect_close_to_oracle({.length = 70,
                                    .features = 13,
                                    .normalization = normalization,
                                    .type = type,
                                    .weight_type = typed_weight ? type : kFp32,
                                    .layout = layout},
                                   context);
          }
        }
      }
    }
  }
}

TEST(KeyScore, PackedEqualsSeparateSequences) {
  const TestContext context;
  for (const int32_t normalization : kNormalizations) {
    for (const hax_data_type index_type : {kInt32, kInt64}) {
      const ScoreCase c{.batch = 1,
                        .length = 1300,
                        .normalization = normalization,
                        .cu_seqlens = cut_up(1300),
                        .index_type = index_type};
      expect_close_to_oracle(c, context);
      const Array whole = score(c, c.values(), context).array();
      for (const Stretch& s : stretches(1, c.length, c.cu_seqlens)) {
        ScoreCase alone = c;
        alone.cu_seqlens = {};
        alone.length = s.length;
        KeyScoreArgs values = c.values();
        values.q = slice_axis(values.q, 1, s.first, s.first + s.length);
        values.k = slice_axis(values.k, 1, s.first, s.first + s.length);
        EXPECT_EQ(slice_axis(whole, 2, s.first, s.first + s.length).data,
                  score(alone, values, context).array().data);
      }
    }
    expect_close_to_oracle(
        {.batch = 1, .length = 0, .normalization = normalization, .cu_seqlens = {0}}, context);
    expect_close_to_oracle(
        {.batch = 1, .length = 0, .normalization = normalization, .cu_seqlens = {0, 0, 0}},
        context);
  }
}

TEST(KeyScore, ManySequences) {
  const std::vector<int64_t> cu_seqlens = many_sequences();
  for (const int32_t normalization : kNormalizations) {
    expect_close_to_oracle({.batch = 1,
                            .length = cu_seqlens.back(),
                            .heads = 1,
                            .features = 1,
                            .normalization = normalization,
                            .cu_seqlens = cu_seqlens,
                            .tolerance = 1e-5},  // sums of 35,000 terms that mostly cancel
                           TestContext(2));
  }
}

TEST(KeyScore, SameBitsForEveryThreadCount) {
  for (const int32_t normalization : kNormalizations) {
    const ScoreCase c{.batch = 1, .length = 5000, .heads = 3, .normalization = normalization};
    const TestContext one(1);
    const Array want_score = score(c, c.values(), one).array();
    const ScoreGradients want = outputs(c);
    backward(c, c.dscore(), want, one);
    for (const int threads : {2, 3, 16}) {
      const TestContext several(threads);
      EXPECT_EQ(score(c, c.values(), several).array().data, want_score.data);
      const ScoreGradients got = outputs(c);
      backward(c, c.dscore(), got, several);
      for (size_t i = 0; i < got.all().size(); ++i) {
        EXPECT_EQ(got.all()[i].array().data, want.all()[i].array().data) << "gradient " << i;
      }
    }
  }
}

// The running sum comes back to almost 0 after many tiles far from it: what is left must be right.
TEST(KeyScore, RunningSumSurvivesCancellation) {
  const TestContext context;
  for (const int32_t normalization : kNormalizations) {
    const ScoreCase c{
        .batch = 1, .length = 4000, .heads = 1, .features = 4, .normalization = normalization};
    KeyScoreArgs values = c.values();
    for (int64_t t = 0; t < c.length; ++t) {
      for (int64_t n = 0; n < c.features; ++n) {
        values.q.at(int64_t{0}, t, int64_t{0}, n) += t < c.length / 2 ? 1e3 : -1e3;
      }
    }
    values.q = round_to(values.q, kFp32);
    KeyScoreArgs want = values;
    for (double& k : want.k.data) k *= static_cast<double>(static_cast<float>(c.k_scale));
    EXPECT_TRUE(expect_close("score", score(c, values, context).array(),
                             swap_last_two(oracle_key_score(want)), c.tolerance));
  }
}

TEST(KeyScore, QueriesOfZeroScoreByTheKeyAlone) {
  const TestContext context;
  for (const int32_t normalization : kNormalizations) {
    const ScoreCase c{.normalization = normalization};
    KeyScoreArgs values = c.values();
    values.q = zeros_like(values.q);
    KeyScoreArgs want = c.oracle_args();
    want.q = values.q;
    EXPECT_TRUE(expect_close("score", score(c, values, context).array(),
                             swap_last_two(oracle_key_score(want)), c.tolerance));
  }
}

TEST(KeyScore, EveryGradientIsOptional) {
  const TestContext context;
  const ScoreCase c;
  const ScoreGradients all = outputs(c);
  backward(c, c.dscore(), all, context);
  for (size_t kept = 0; kept < all.all().size(); ++kept) {
    ScoreGradients some = outputs(c);
    Argument* each[] = {&some.dW1, &some.db1, &some.dW2, &some.db2, &some.dW3, &some.db3};
    for (size_t i = 0; i < all.all().size(); ++i) {
      if (i != kept) *each[i] = Argument();
    }
    backward(c, c.dscore(), some, context);
    EXPECT_EQ(each[kept]->array().data, all.all()[kept].array().data) << "gradient " << kept;
  }
}

TEST(KeyScore, NanReachesItsScoreOnly) {
  const TestContext context;
  const ScoreCase c{.batch = 1, .heads = 1};
  KeyScoreArgs values = c.values();
  const Array want = score(c, values, context).array();
  values.k.at(int64_t{0}, int64_t{20}, int64_t{0}, int64_t{3}) = std::nan("");
  const Array got = score(c, values, context).array();
  for (size_t t = 0; t < got.data.size(); ++t) {
    if (t == 20) {
      EXPECT_TRUE(std::isnan(got.data[t]));
    } else {
      EXPECT_EQ(got.data[t], want.data[t]) << t;
    }
  }
}

TEST(KeyScore, RejectsWhatItCannotDo) {
  const TestContext context;
  const ScoreCase c{.batch = 1, .length = 3, .heads = 1, .features = 2};
  const Argument out = Argument::output({1, 1, 3});
  const ScoreInputs inputs(c, c.values());
  hax_key_score_forward_args good = {};
  inputs.fill(good, c);
  good.score = out.arg();
  const auto status = [&](const hax_key_score_forward_args& args) {
    return run(hax_key_score_forward_workspace, hax_key_score_forward, context, args);
  };
  hax_key_score_forward_args args = good;
  for (const float k_scale : {0.0f, INFINITY, -INFINITY, NAN}) {
    args.k_scale = k_scale;
    EXPECT_EQ(status(args), HAX_ERROR_INVALID_ARGUMENT);
    EXPECT_TRUE(std::string(hax_last_error())
                    .starts_with("hax_key_score_forward: k_scale: expected a finite number"));
  }
  args = good;
  args.normalization = 2;
  EXPECT_EQ(status(args), HAX_ERROR_UNSUPPORTED);
  args = good;
  const Argument narrow = Argument::input(Array({4, 3}));
  args.W2 = narrow.arg();
  EXPECT_EQ(status(args), HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(hax_last_error()),
            "hax_key_score_forward: W2: expected shape (2N=4, 2N=4), got (4, 3)");
  args = good;
  const Argument half = Argument::input(Array({4, 4}), kBf16);
  args.W1 = half.arg();
  EXPECT_EQ(status(args), HAX_ERROR_UNSUPPORTED);
  args = good;
  args.b3 = nullptr;
  EXPECT_EQ(status(args), HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_TRUE(out.untouched());
  EXPECT_EQ(status(good), HAX_SUCCESS);
}

}  // namespace
}  // namespace hax_test
