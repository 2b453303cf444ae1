#include "scan/selective_scan_case.hpp"

#include "support/safetensors.hpp"

namespace hax_test {
namespace {

// Shapes where tiles, segments, blocks of channels and runs of states begin, end and are missed by one.
std::vector<SelectiveScanCase> hostile_cases() {
  std::vector<SelectiveScanCase> cases;
  for (const int64_t length : {0, 1, 2, 31, 32, 33, 64, 2047, 2048, 2049, 4200}) {
    cases.push_back({.batch = 1, .length = length, .channels = 3, .states = 2});
  }
  for (const int64_t channels : {0, 1, 4, 7, 8, 15, 16, 17, 63, 64, 65, 130}) {
    cases.push_back({.length = 34, .channels = channels});
    cases.push_back({.batch = 20, .length = 2, .channels = channels, .states = 3});
  }
  for (const int64_t states : {1, 2, 3, 4, 6, 7, 8, 16, 17, 255, 256}) {
    cases.push_back({.batch = 1, .length = 34, .channels = 5, .states = states});
  }
  for (const int64_t groups : {1, 2, 3, 6, 34, 102}) {
    cases.push_back({.length = 5, .channels = 102, .states = 4, .groups = groups});
  }
  cases.push_back({.batch = 0});
  cases.push_back({.length = 3, .channels = 0, .groups = 2});
  for (const bool initial_state : {false, true}) {
    cases.push_back({.batch = 1,
                     .length = 4600,
                     .channels = 3,
                     .states = 2,
                     .initial_state = initial_state,
                     .cu_seqlens = {0, 0, 1, 3, 64, 64, 2060, 4300, 4300, 4600, 4600},
                     .checkpoint_every = 7});
    cases.push_back({.batch = 1,
                     .length = 4200,
                     .channels = 3,
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

TEST(SelectiveScan, HostileShapes) {
  const TestContext context(2);
  for (const SelectiveScanCase& c : hostile_cases()) {
    SCOPED_TRACE(describe(c));
    expect_matches_oracle(c, context);
  }
}

TEST(SelectiveScan, EveryTypeAndLayoutOnEveryCpuLevel) {
  for (const std::string& level : available_cpu_levels()) {
    const TestContext context(2, level.c_str());
    for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
      for (const Layout layout : kLayouts) {
        const SelectiveScanCase c{.length = 45,
                                  .channels = 38,
                                  .states = 7,
                                  .groups = 2,
                                  .checkpoint_every = 10,
                                  .options = {.type = type, .layout = layout}};
        SCOPED_TRACE(level + " " + describe(c));
        expect_matches_oracle(c, context);
      }
    }
  }
}

// What CUDA has kernels of their own for: few and many states, few and many channels side by side.
TEST(SelectiveScan, EveryNumberOfStatesInEveryType) {
  const TestContext context;
  for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
    for (const int64_t states : {5, 16, 20, 64, 100, 128, 256}) {
      const SelectiveScanCase c{
          .length = 50, .channels = 72, .states = states, .options = {.type = type}};
      SCOPED_TRACE(describe(c));
      expect_matches_oracle(c, context);
    }
    for (const int64_t batch : {100, 450}) {
      const SelectiveScanCase c{
          .batch = batch, .length = 35, .channels = 72, .states = 16, .options = {.type = type}};
      SCOPED_TRACE(describe(c));
      expect_matches_oracle(c, context);
    }
  }
}

// CUDA's backward cuts rows into segments of at least 128 tokens, tiles of 8 or 4 and, where channels are few,
// walks; blocks of 64, 32 or 16 channels. 72 channels can be moved in vectors, 68 in fp32 alone.
TEST(SelectiveScan, SegmentsAndTilesOfBackward) {
  const TestContext context;
  for (const hax_data_type type : {kFp32, kBf16}) {
    for (const int64_t length : {3, 4, 5, 7, 8, 9, 127, 128, 129, 135, 136, 137, 256, 257, 700}) {
      using Shape = std::pair<int64_t, int64_t>;
      for (const auto& [channels, states] :
           {Shape{68, 16}, Shape{68, 40}, Shape{68, 70}, Shape{72, 16}, Shape{72, 24}}) {
        const SelectiveScanCase c{.batch = 1,
                                  .length = length,
                                  .channels = channels,
                                  .states = states,
                                  .options = {.type = type}};
        SCOPED_TRACE(describe(c));
        expect_matches_oracle(c, context);
      }
    }
    for (const std::vector<int64_t>& boundaries :
         {std::vector<int64_t>{0, 128, 256, 300, 500, 700}, std::vector<int64_t>{0, 700},
          std::vector<int64_t>{0, 0, 1, 120, 127, 129, 129, 640, 641, 700, 700},
          std::vector<int64_t>{0, 383, 384, 513, 700}}) {
      for (const int64_t every : {0, 50}) {
        for (const int64_t channels : {20, 32}) {
          const SelectiveScanCase c{.batch = 1,
                                    .length = 700,
                                    .channels = channels,
                                    .states = 16,
                                    .groups = 2,
                                    .cu_seqlens = boundaries,
                                    .checkpoint_every = every,
                                    .options = {.type = type}};
          SCOPED_TRACE(describe(c));
          expect_matches_oracle(c, context);
        }
      }
    }
  }
}

// Where channels fill a GPU, segments of backward wait for each other.
TEST(SelectiveScan, SegmentsOfManyChannels) {
  const TestContext context;
  for (const hax_data_type type : {kFp32, kBf16}) {
    for (const std::vector<int64_t>& boundaries :
         {std::vector<int64_t>{}, std::vector<int64_t>{0, 5, 128, 128, 270, 290}}) {
      const SelectiveScanCase c{.batch = 1,
                                .length = 290,
                                .channels = 400,
                                .states = 3,
                                .groups = 400,
                                .cu_seqlens = boundaries,
                                .options = {.type = type}};
      SCOPED_TRACE(describe(c));
      expect_matches_oracle(c, context);
    }
    const SelectiveScanCase rows{
        .batch = 400, .length = 290, .channels = 8, .states = 16, .options = {.type = type}};
    SCOPED_TRACE(describe(rows));
    expect_matches_oracle(rows, context);
  }
}

TEST(SelectiveScan, StateTypeIsItsOwn) {
  const TestContext context;
  for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
    for (const hax_data_type state_type : {kFp32, kFp16, kBf16}) {
      const SelectiveScanCase c{.checkpoint_every = 9,
                                .options = {.type = type, .state_type = state_type}};
      SCOPED_TRACE(describe(c));
      expect_matches_oracle(c, context);
    }
  }
}

TEST(SelectiveScan, EveryCombinationOfOptionalArguments) {
  const TestContext context;
  for (int bits = 0; bits < 32; ++bits) {
    const SelectiveScanCase c{.softplus = (bits & 1) != 0,
                              .D = (bits & 2) != 0,
                              .z = (bits & 4) != 0,
                              .bias = (bits & 8) != 0,
                              .initial_state = (bits & 16) != 0};
    SCOPED_TRACE(bits);
    expect_matches_oracle(c, context);
  }
}

TEST(SelectiveScan, OptionalOutputsMayBeLeftOut) {
  const TestContext context;
  const SelectiveScanCase c{.length = 70};
  const SelectiveScanArgs a = c.values();
  const SelectiveScanInputs in(a, c.options);
  const Argument y = Argument::output(c.tokens_shape());
  hax_selective_scan_forward_args forward = {};
  in.bind(forward);
  forward.y = y.arg();
  HAX_RUN(selective_scan_forward, context, forward);
  EXPECT_TRUE(expect_close("y", y.array(), oracle_selective_scan(a).y, 1e-5));

  const Argument dy = Argument::input(c.dy());
  const NamedArrays want = by_name(oracle_selective_scan_backward(a, c.dy()), a);
  using Args = hax_selective_scan_backward_args;
  const std::map<std::string, const hax_tensor* Args::*> fields = {
      {"du", &Args::du},
      {"ddelta", &Args::ddelta},
      {"dA", &Args::dA},
      {"dB", &Args::dB},
      {"dC", &Args::dC},
      {"dD", &Args::dD},
      {"dz", &Args::dz},
      {"ddelta_bias", &Args::ddelta_bias},
      {"dinitial_state", &Args::dinitial_state}};
  for (const auto& [name, field] : fields) {
    const Argument out = Argument::output(want.at(name).shape);
    Args backward = {};
    in.bind(backward);
    backward.dy = dy.arg();
    backward.*field = out.arg();
    HAX_RUN(selective_scan_backward, context, backward);
    EXPECT_TRUE(expect_close(name, out.array(), want.at(name), 1e-5));
  }
}

TEST(SelectiveScan, SameBitsForEveryThreadCount) {
  const SelectiveScanCase c{.batch = 3, .length = 2100, .channels = 70, .states = 3, .groups = 2};
  const SelectiveScanArgs a = c.values();
  const TestContext one(1);
  const NamedArguments y = run_selective_scan(a, {}, one);
  const NamedArguments grads = run_selective_scan_backward(a, c.dy(), c.dfinal_state(), {}, one);
  for (const int threads : {2, 3, 8}) {
    const TestContext several(threads);
    expect_same_bits(run_selective_scan(a, {}, several), y);
    expect_same_bits(run_selective_scan_backward(a, c.dy(), c.dfinal_state(), {}, several), grads);
  }
}

// States that hardly decay gather rounding over thousands of tokens.
TEST(SelectiveScan, LongMemoryStaysAccurate) {
  const TestContext context;
  SelectiveScanCase c{.batch = 1, .length = 20000, .channels = 4, .states = 3};
  for (const bool constant : {false, true}) {
    SelectiveScanArgs a = c.values();
    for (double& value : a.A.data) value = round_to(value * 0.02, kFp32);
    for (double& value : a.delta.data) value = round_to(constant ? -3.0 : value - 2.0, kFp32);
    const ScanResult want = oracle_selective_scan(a);
    expect_results(run_selective_scan(a, {}, context),
                   {{"y", want.y}, {"final_state", want.final_state}});
    expect_results(run_selective_scan_backward(a, c.dy(), c.dfinal_state(), {}, context),
                   by_name(oracle_selective_scan_backward(a, c.dy(), c.dfinal_state()), a));
  }
}

// Large steps: softplus must not overflow, decays become exactly 0.
TEST(SelectiveScan, HugeAndTinySteps) {
  const TestContext context;
  const SelectiveScanCase c{.batch = 1, .length = 40, .channels = 6, .bias = false};
  SelectiveScanArgs a = c.values();
  const double steps[] = {-200.0, -90.0, -30.0, 30.0, 90.0, 1000.0};
  for (int64_t i = 0; i < a.delta.numel(); ++i) a.delta.data[static_cast<size_t>(i)] = steps[i % 6];
  const ScanResult want = oracle_selective_scan(a);
  expect_results(run_selective_scan(a, {}, context),
                 {{"y", want.y}, {"final_state", want.final_state}});
  expect_results(run_selective_scan_backward(a, c.dy(), c.dfinal_state(), {}, context),
                 by_name(oracle_selective_scan_backward(a, c.dy(), c.dfinal_state()), a));
}

TEST(SelectiveScan, NotANumberReachesWhatDependsOnIt) {
  const TestContext context;
  const SelectiveScanCase c{.batch = 1, .length = 40, .channels = 6};
  for (const bool in_delta : {false, true}) {
    SelectiveScanArgs a = c.values();
    (in_delta ? a.delta : a.u).at(0, 20, 3) = std::nan("");
    const Array y = run_selective_scan(a, {}, context).at("y").array();
    for (int64_t t = 0; t < c.length; ++t) {
      for (int64_t d = 0; d < c.channels; ++d) {
        EXPECT_EQ(std::isnan(y.at(0, t, d)), t >= 20 && d == 3) << t << " " << d;
      }
    }
  }
}

TEST(SelectiveScan, Golden) {
  const Safetensors golden(golden_path("golden_ops.safetensors"));
  for (const std::string& level : available_cpu_levels()) {
    const TestContext context(0, level.c_str());
    int cases = 0;
    for (const std::string name : {"full", "groups", "one_token", "plain"}) {
      SCOPED_TRACE(level + " " + name);
      const auto get = [&](const std::string& tensor) {
        return golden.load_if_present("selective_scan_" + name + "/" + tensor);
      };
      SelectiveScanArgs a;
      a.u = get("u");
      a.delta = get("delta");
      a.A = get("A");
      a.B = get("B");
      a.C = get("C");
      a.D = get("D");
      a.z = get("z");
      a.delta_bias = get("delta_bias");
      a.initial_state = get("initial_state");
      expect_results(run_selective_scan(a, {}, context),
                     {{"y", get("out_y")}, {"final_state", get("out_final_state")}});
      NamedArrays want;
      for (const std::string input :
           {"u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state"}) {
        if (const Array gradient = get("d_" + input); gradient.present())
          want["d" + input] = gradient;
      }
      ASSERT_GE(want.size(), 5U);
      expect_results(
          run_selective_scan_backward(a, get("grad_y"), get("grad_final_state"), {}, context),
          want);
      ++cases;
    }
    EXPECT_EQ(cases, 4);
  }
}

}  // namespace
}  // namespace hax_test
