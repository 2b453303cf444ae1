// Sequences handed over from call to call: states, their gradients, checkpoints; ssd beside selective_scan.
#include "scan/selective_scan_case.hpp"
#include "scan/ssd_case.hpp"

namespace hax_test {
namespace {

// Tokens [begin, end) of a problem that starts from `state`.
SsdArgs part(const SsdArgs& whole, int64_t begin, int64_t end, const Array& state) {
  SsdArgs a = whole;
  for (Array SsdArgs::*tokens :
       {&SsdArgs::x, &SsdArgs::dt, &SsdArgs::B, &SsdArgs::C, &SsdArgs::z}) {
    a.*tokens = slice_axis(whole.*tokens, 1, begin, end);
  }
  a.initial_state = state;
  return a;
}

TEST(SsdSplit, AnywhereEqualsWhole) {
  const TestContext context;
  const SsdCase c{.length = 70};
  const SsdArgs a = c.values();
  const ScanResult want = oracle_ssd(a);
  const SsdGrads grads = oracle_ssd_backward(a, c.dy(), c.dfinal_state());
  for (int64_t cut = 0; cut <= c.length; ++cut) {
    SCOPED_TRACE(cut);
    const SsdArgs head = part(a, 0, cut, a.initial_state);
    const NamedArguments first = run_ssd(head, {}, context);
    const SsdArgs tail = part(a, cut, c.length, first.at("final_state").array());
    const NamedArguments second = run_ssd(tail, {}, context);
    const Array y = concat_axis({first.at("y").array(), second.at("y").array()}, 1);
    EXPECT_TRUE(expect_close("y", y, want.y, 1e-5));
    EXPECT_TRUE(
        expect_close("final_state", second.at("final_state").array(), want.final_state, 1e-5));

    const NamedArguments late =
        run_ssd_backward(tail, slice_axis(c.dy(), 1, cut, c.length), c.dfinal_state(), {}, context);
    const NamedArguments early = run_ssd_backward(head, slice_axis(c.dy(), 1, 0, cut),
                                                  late.at("dinitial_state").array(), {}, context);
    EXPECT_TRUE(expect_close("dinitial_state", early.at("dinitial_state").array(),
                             grads.dinitial_state, 1e-5));
    for (const auto& [name, whole] : {std::pair{"dx", grads.dx},
                                      {"ddt", grads.ddt},
                                      {"dB", grads.dB},
                                      {"dC", grads.dC},
                                      {"dz", grads.dz}}) {
      const Array joined = concat_axis({early.at(name).array(), late.at(name).array()}, 1);
      EXPECT_TRUE(expect_close(name, joined, whole, 1e-5));
    }
    for (const auto& [name, whole] :
         {std::pair{"dA", grads.dA}, {"dD", grads.dD}, {"ddt_bias", grads.ddt_bias}}) {
      Array sum = early.at(name).array();
      add_into(sum, late.at(name).array());
      EXPECT_TRUE(expect_close(name, sum, whole, 1e-5));
    }
  }
}

TEST(SsdSplit, CheckpointsContinueTheSequence) {
  const TestContext context;
  const SsdCase c{.batch = 1, .length = 100, .checkpoint_every = 24};
  const SsdArgs a = c.values();
  const Array states = run_ssd(a, {}, context).at("checkpoints").array();
  for (int64_t i = 0; i < 4; ++i) {
    const int64_t begin = 24 * (i + 1);
    const Array state = slice_axis(states, 1, i, i + 1).reshape(c.state_shape());
    SsdArgs rest = part(a, begin, c.length, state);
    rest.checkpoint_every = 0;
    EXPECT_TRUE(expect_close("y", run_ssd(rest, {}, context).at("y").array(),
                             slice_axis(oracle_ssd(a).y, 1, begin, c.length), 1e-5));
  }
}

std::vector<SsdCase> checkpoint_cases() {
  return {
      {.length = 100, .checkpoint_every = 1},
      {.length = 100, .checkpoint_every = 32},
      {.length = 100, .checkpoint_every = 45},
      {.batch = 1, .length = 4300, .width = 2, .states = 2, .checkpoint_every = 64},
      {.batch = 1, .length = 4300, .width = 2, .states = 2, .checkpoint_every = 2100},
      {.batch = 1,
       .length = 4300,
       .width = 2,
       .states = 2,
       .cu_seqlens = {0, 300, 300, 4000, 4300},
       .checkpoint_every = 30},
  };
}

TEST(SsdSplit, BackwardFromCheckpointsMatchesTheOracle) {
  const TestContext context;
  for (const SsdCase& c : checkpoint_cases()) {
    SCOPED_TRACE(describe(c));
    const SsdArgs a = c.values();
    const Argument checkpoints = run_ssd(a, {}, context).at("checkpoints");
    expect_results(run_ssd_backward(a, c.dy(), c.dfinal_state(), {}, context, checkpoints),
                   by_name(oracle_ssd_backward(a, c.dy(), c.dfinal_state()), a));
  }
}

// Other states in their place give another gradient: backward starts from what it is given.
TEST(SsdSplit, BackwardReadsCheckpoints) {
  const TestContext context;
  for (const SsdCase& c : checkpoint_cases()) {
    SCOPED_TRACE(describe(c));
    const SsdArgs a = c.values();
    Array states = run_ssd(a, {}, context).at("checkpoints").array();
    for (double& state : states.data) state += 100.0;
    const Array dC =
        run_ssd_backward(a, c.dy(), c.dfinal_state(), {}, context, Argument::input(states))
            .at("dC")
            .array();
    const Array want = oracle_ssd_backward(a, c.dy(), c.dfinal_state()).dC;
    EXPECT_GT(difference(dC, want).error, 1e-3);
  }
}

// ssd is the selective scan with A the same over N and delta the same over P.
TEST(SsdSplit, AgreesWithSelectiveScan) {
  const TestContext context;
  const SsdCase c{.length = 80, .skip_rank = 2};
  const SsdArgs a = c.values();
  const int64_t channels = c.heads * c.width;
  SelectiveScanArgs s;
  s.u = a.x.reshape({c.batch, c.length, channels});
  s.z = a.z.reshape({c.batch, c.length, channels});
  s.B = a.B;
  s.C = a.C;
  s.D = a.D.reshape({channels});
  s.A = Array({channels, c.states});
  s.delta = Array({c.batch, c.length, channels});
  s.delta_bias = Array({channels});
  s.initial_state = a.initial_state.reshape({c.batch, channels, c.states});
  for (int64_t d = 0; d < channels; ++d) {
    const int64_t h = d / c.width;
    s.delta_bias.at(d) = a.dt_bias.at(h);
    for (int64_t n = 0; n < c.states; ++n) s.A.at(d, n) = a.A.at(h);
    for (int64_t b = 0; b < c.batch; ++b) {
      for (int64_t t = 0; t < c.length; ++t) s.delta.at(b, t, d) = a.dt.at(b, t, h);
    }
  }
  const Array y = run_ssd(a, {}, context).at("y").array();
  EXPECT_TRUE(expect_close("y", run_selective_scan(s, {}, context).at("y").array(),
                           y.reshape(s.u.shape), 1e-5));
  const NamedArguments got = run_ssd_backward(a, c.dy(), c.dfinal_state(), {}, context);
  const NamedArguments want = run_selective_scan_backward(
      s, c.dy().reshape(s.u.shape), c.dfinal_state().reshape(s.initial_state.shape), {}, context);
  EXPECT_TRUE(
      expect_close("dx", got.at("dx").array().reshape(s.u.shape), want.at("du").array(), 1e-5));
  EXPECT_TRUE(expect_close("dB", got.at("dB").array(), want.at("dB").array(), 1e-5));
  EXPECT_TRUE(expect_close("dC", got.at("dC").array(), want.at("dC").array(), 1e-5));
}

}  // namespace
}  // namespace hax_test
