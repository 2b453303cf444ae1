#include "scan/ssd_case.hpp"

#include <algorithm>

#include "support/safetensors.hpp"

namespace hax_test {
namespace {

// Shapes where tiles, segments, blocks of heads and vectors begin, end and are missed by one.
std::vector<SsdCase> hostile_cases() {
  std::vector<SsdCase> cases;
  for (const int64_t length : {0, 1, 2, 3, 4, 5, 31, 32, 33, 64, 2047, 2048, 2049, 4200}) {
    cases.push_back({.batch = 1, .length = length, .heads = 4, .width = 3, .states = 2});
  }
  for (const int64_t heads : {0, 1, 2, 3, 4, 5, 9, 70}) {
    cases.push_back({.length = 34, .heads = heads, .skip_rank = 2});
    cases.push_back({.batch = 20, .length = 2, .heads = heads});
  }
  for (const int64_t width : {1, 7, 8, 9, 15, 16, 17, 64, 255, 256}) {
    cases.push_back({.batch = 1, .length = 34, .heads = 2, .width = width, .states = 3});
  }
  for (const int64_t states : {1, 2, 3, 4, 7, 8, 16, 17, 255, 256}) {
    cases.push_back({.batch = 1, .length = 34, .heads = 2, .width = 3, .states = states});
  }
  for (const int64_t groups : {1, 2, 3, 6, 18}) {
    cases.push_back(
        {.batch = 9, .length = 5, .heads = 18, .width = 2, .states = 3, .groups = groups});
  }
  cases.push_back({.batch = 0});
  cases.push_back({.length = 3, .heads = 0, .groups = 2});
  for (const bool initial_state : {false, true}) {
    cases.push_back({.batch = 1,
                     .length = 4600,
                     .heads = 2,
                     .width = 3,
                     .states = 2,
                     .initial_state = initial_state,
                     .cu_seqlens = {0, 0, 1, 3, 64, 64, 2060, 4300, 4300, 4600, 4600},
                     .checkpoint_every = 7});
    cases.push_back({.batch = 1,
                     .length = 4200,
                     .heads = 2,
                     .width = 3,
                     .states = 2,
                     .initial_state = initial_state,
                     .cu_seqlens = {0, 2048, 4096, 4200},
                     .checkpoint_every = 100,
                     .options = {.index_type = kInt64}});
  }
  cases.push_back({.batch = 1, .length = 0, .cu_seqlens = {0}});
  cases.push_back({.batch = 1, .length = 0, .cu_seqlens = {0, 0, 0}});
  for (const int64_t every : {1, 2, 5, 31, 32, 33, 74, 75, 76}) {
    cases.push_back({.length = 75, .checkpoint_every = every});
  }
  return cases;
}

TEST(Ssd, HostileShapes) {
  const TestContext context(2);
  for (const SsdCase& c : hostile_cases()) {
    SCOPED_TRACE(describe(c));
    expect_matches_oracle(c, context);
  }
}

TEST(Ssd, EveryTypeAndLayoutOnEveryCpuLevel) {
  for (const std::string& level : available_cpu_levels()) {
    const TestContext context(2, level.c_str());
    for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
      for (const Layout layout : kLayouts) {
        for (const bool typed_dt : {false, true}) {
          const SsdCase c{
              .length = 45,
              .heads = 6,
              .width = 19,
              .states = 7,
              .groups = 2,
              .skip_rank = typed_dt ? 1 : 2,
              .checkpoint_every = 10,
              .options = {.type = type, .dt_type = typed_dt ? type : kFp32, .layout = layout}};
          SCOPED_TRACE(level + " " + describe(c));
          expect_matches_oracle(c, context);
        }
      }
    }
  }
}

TEST(Ssd, StateTypeIsItsOwn) {
  const TestContext context;
  for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
    for (const hax_data_type state_type : {kFp32, kFp16, kBf16}) {
      const SsdCase c{.checkpoint_every = 9, .options = {.type = type, .state_type = state_type}};
      SCOPED_TRACE(describe(c));
      expect_matches_oracle(c, context);
    }
  }
}

TEST(Ssd, EveryCombinationOfOptionalArguments) {
  const TestContext context;
  for (int bits = 0; bits < 8; ++bits) {
    for (int skip_rank = 0; skip_rank < 3; ++skip_rank) {
      const SsdCase c{.skip_rank = skip_rank,
                      .z = (bits & 1) != 0,
                      .bias = (bits & 2) != 0,
                      .initial_state = (bits & 4) != 0};
      SCOPED_TRACE(bits);
      expect_matches_oracle(c, context);
    }
  }
}

TEST(Ssd, ClampedStepsHaveNoGradient) {
  const TestContext context;
  for (const auto& [low, high] : {std::pair{0.3, 0.0}, {0.0, 0.4}, {0.2, 0.4}, {0.3, 0.3}}) {
    const SsdCase c{.length = 70, .dt_min = low, .dt_max = high};
    SCOPED_TRACE(low);
    expect_matches_oracle(c, context);
    const SsdArgs a = c.values();
    const Array ddt = run_ssd_backward(a, c.dy(), c.dfinal_state(), {}, context).at("ddt").array();
    const auto zeros = std::count(ddt.data.begin(), ddt.data.end(), 0.0);
    EXPECT_GT(zeros, ddt.numel() / 8);
    EXPECT_EQ(zeros == ddt.numel(), low == high);
  }
}

TEST(Ssd, OptionalOutputsMayBeLeftOut) {
  const TestContext context;
  const SsdCase c{.length = 70};
  const SsdArgs a = c.values();
  const SsdInputs in(a, c.options);
  const Argument y = Argument::output(c.tokens_shape());
  hax_ssd_forward_args forward = {};
  in.bind(forward);
  forward.y = y.arg();
  HAX_RUN(ssd_forward, context, forward);
  EXPECT_TRUE(expect_close("y", y.array(), oracle_ssd(a).y, 1e-5));

  const Argument dy = Argument::input(c.dy());
  const NamedArrays want = by_name(oracle_ssd_backward(a, c.dy()), a);
  using Args = hax_ssd_backward_args;
  const std::map<std::string, const hax_tensor* Args::*> fields = {
      {"dx", &Args::dx},
      {"ddt", &Args::ddt},
      {"dA", &Args::dA},
      {"dB", &Args::dB},
      {"dC", &Args::dC},
      {"dD", &Args::dD},
      {"dz", &Args::dz},
      {"ddt_bias", &Args::ddt_bias},
      {"dinitial_state", &Args::dinitial_state}};
  for (const auto& [name, field] : fields) {
    const Argument out = Argument::output(want.at(name).shape);
    Args backward = {};
    in.bind(backward);
    backward.dy = dy.arg();
    backward.*field = out.arg();
    HAX_RUN(ssd_backward, context, backward);
    EXPECT_TRUE(expect_close(name, out.array(), want.at(name), 1e-5));
  }
}

TEST(Ssd, SameBitsForEveryThreadCount) {
  const SsdCase c{.batch = 3, .length = 2100, .heads = 10, .width = 6, .states = 3, .groups = 2};
  const SsdArgs a = c.values();
  const TestContext one(1);
  const NamedArguments y = run_ssd(a, {}, one);
  const NamedArguments grads = run_ssd_backward(a, c.dy(), c.dfinal_state(), {}, one);
  for (const int threads : {2, 3, 8}) {
    const TestContext several(threads);
    expect_same_bits(run_ssd(a, {}, several), y);
    expect_same_bits(run_ssd_backward(a, c.dy(), c.dfinal_state(), {}, several), grads);
  }
}

// States that hardly decay gather rounding over thousands of tokens.
TEST(Ssd, LongMemoryStaysAccurate) {
  const TestContext context;
  const SsdCase c{.batch = 1, .length = 20000, .heads = 2, .width = 2, .states = 3};
  for (const bool constant : {false, true}) {
    SsdArgs a = c.values();
    for (double& value : a.A.data) value = round_to(value * 0.02, kFp32);
    for (double& value : a.dt.data) value = round_to(constant ? -3.0 : value - 2.0, kFp32);
    const ScanResult want = oracle_ssd(a);
    expect_results(run_ssd(a, {}, context), {{"y", want.y}, {"final_state", want.final_state}});
    expect_results(run_ssd_backward(a, c.dy(), c.dfinal_state(), {}, context),
                   by_name(oracle_ssd_backward(a, c.dy(), c.dfinal_state()), a));
  }
}

// Large steps: softplus must not overflow, decays become exactly 0, and no exponent of a decay is positive.
TEST(Ssd, HugeAndTinySteps) {
  const TestContext context;
  const SsdCase c{.batch = 1, .length = 40, .bias = false};
  SsdArgs a = c.values();
  const double steps[] = {-200.0, 1000.0, -30.0, 3.0, 90.0, -1.0};
  for (int64_t t = 0; t < c.length; ++t) {
    for (int64_t h = 0; h < c.heads; ++h) {
      for (int64_t b = 0; b < c.batch; ++b) a.dt.at(b, t, h) = steps[(t + h) % 6];
    }
  }
  const ScanResult want = oracle_ssd(a);
  expect_results(run_ssd(a, {}, context), {{"y", want.y}, {"final_state", want.final_state}});
  expect_results(run_ssd_backward(a, c.dy(), c.dfinal_state(), {}, context),
                 by_name(oracle_ssd_backward(a, c.dy(), c.dfinal_state()), a));
}

TEST(Ssd, NotANumberReachesWhatDependsOnIt) {
  const TestContext context;
  const SsdCase c{.batch = 1, .length = 40, .heads = 3, .width = 5};
  for (const bool in_dt : {false, true}) {
    SsdArgs a = c.values();
    (in_dt ? a.dt.at(0, 21, 1) : a.x.at(0, 21, 1, 3)) = std::nan("");
    const Array y = run_ssd(a, {}, context).at("y").array();
    for (int64_t t = 0; t < c.length; ++t) {
      for (int64_t h = 0; h < c.heads; ++h) {
        for (int64_t p = 0; p < c.width; ++p) {
          const bool reached = t >= 21 && h == 1 && (in_dt || p == 3);
          EXPECT_EQ(std::isnan(y.at(0, t, h, p)), reached) << t << " " << h << " " << p;
        }
      }
    }
  }
}

TEST(Ssd, Golden) {
  const Safetensors golden(golden_path("golden_ops.safetensors"));
  for (const std::string& level : available_cpu_levels()) {
    const TestContext context(0, level.c_str());
    for (const std::string name : {"full", "groups", "one_token", "dt_limit"}) {
      SCOPED_TRACE(level + " " + name);
      const auto get = [&](const std::string& tensor) {
        return golden.load_if_present("ssd_" + name + "/" + tensor);
      };
      SsdArgs a;
      a.x = get("x");
      a.dt = get("dt");
      a.A = get("A");
      a.B = get("B");
      a.C = get("C");
      a.D = get("D");
      a.z = get("z");
      a.dt_bias = get("dt_bias");
      a.initial_state = get("initial_state");
      if (name == "dt_limit") {
        a.dt_min = 0.05;
        a.dt_max = 0.3;
      }
      expect_results(run_ssd(a, {}, context),
                     {{"y", get("out_y")}, {"final_state", get("out_final_state")}});
      NamedArrays want;
      for (const std::string input :
           {"x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state"}) {
        if (const Array gradient = get("d_" + input); gradient.present())
          want["d" + input] = gradient;
      }
      ASSERT_GE(want.size(), 7U);
      expect_results(run_ssd_backward(a, get("grad_y"), get("grad_final_state"), {}, context),
                     want);
    }
  }
}

}  // namespace
}  // namespace hax_test
