// Sequences handed over from call to call: states, their gradients, checkpoints.
#include "scan/selective_scan_case.hpp"

namespace hax_test {
namespace {

// Tokens [begin, end) of a problem that starts from `state`.
SelectiveScanArgs part(const SelectiveScanArgs& whole, int64_t begin, int64_t end,
                       const Array& state) {
  SelectiveScanArgs a = whole;
  for (Array SelectiveScanArgs::*tokens :
       {&SelectiveScanArgs::u, &SelectiveScanArgs::delta, &SelectiveScanArgs::B,
        &SelectiveScanArgs::C, &SelectiveScanArgs::z}) {
    a.*tokens = slice_axis(whole.*tokens, 1, begin, end);
  }
  a.initial_state = state;
  return a;
}

TEST(SelectiveScanSplit, AnywhereEqualsWhole) {
  const TestContext context;
  const SelectiveScanCase c{.length = 70};
  const SelectiveScanArgs a = c.values();
  const ScanResult want = oracle_selective_scan(a);
  const SelectiveScanGrads grads = oracle_selective_scan_backward(a, c.dy(), c.dfinal_state());
  for (int64_t cut = 0; cut <= c.length; ++cut) {
    SCOPED_TRACE(cut);
    const SelectiveScanArgs head = part(a, 0, cut, a.initial_state);
    const NamedArguments first = run_selective_scan(head, {}, context);
    const SelectiveScanArgs tail = part(a, cut, c.length, first.at("final_state").array());
    const NamedArguments second = run_selective_scan(tail, {}, context);
    const Array y = concat_axis({first.at("y").array(), second.at("y").array()}, 1);
    EXPECT_TRUE(expect_close("y", y, want.y, 1e-5));
    EXPECT_TRUE(
        expect_close("final_state", second.at("final_state").array(), want.final_state, 1e-5));

    const NamedArguments late = run_selective_scan_backward(
        tail, slice_axis(c.dy(), 1, cut, c.length), c.dfinal_state(), {}, context);
    const NamedArguments early = run_selective_scan_backward(
        head, slice_axis(c.dy(), 1, 0, cut), late.at("dinitial_state").array(), {}, context);
    EXPECT_TRUE(expect_close("dinitial_state", early.at("dinitial_state").array(),
                             grads.dinitial_state, 1e-5));
    for (const auto& [name, whole] : {std::pair{"du", grads.du},
                                      {"ddelta", grads.ddelta},
                                      {"dB", grads.dB},
                                      {"dC", grads.dC},
                                      {"dz", grads.dz}}) {
      const Array joined = concat_axis({early.at(name).array(), late.at(name).array()}, 1);
      EXPECT_TRUE(expect_close(name, joined, whole, 1e-5));
    }
    for (const auto& [name, whole] :
         {std::pair{"dA", grads.dA}, {"dD", grads.dD}, {"ddelta_bias", grads.ddelta_bias}}) {
      Array sum = early.at(name).array();
      add_into(sum, late.at(name).array());
      EXPECT_TRUE(expect_close(name, sum, whole, 1e-5));
    }
  }
}

TEST(SelectiveScanSplit, CheckpointsContinueTheSequence) {
  const TestContext context;
  const SelectiveScanCase c{.batch = 1, .length = 100, .checkpoint_every = 24};
  const SelectiveScanArgs a = c.values();
  const NamedArguments whole = run_selective_scan(a, {}, context);
  const Array states = whole.at("checkpoints").array();
  for (int64_t i = 0; i < 4; ++i) {
    const int64_t begin = 24 * (i + 1);
    const Array state = slice_axis(states, 1, i, i + 1).reshape({1, c.channels, c.states});
    SelectiveScanArgs rest = part(a, begin, c.length, state);
    rest.checkpoint_every = 0;
    EXPECT_TRUE(expect_close("y", run_selective_scan(rest, {}, context).at("y").array(),
                             slice_axis(oracle_selective_scan(a).y, 1, begin, c.length), 1e-5));
  }
}

std::vector<SelectiveScanCase> checkpoint_cases() {
  return {
      {.length = 100, .checkpoint_every = 1},
      {.length = 100, .checkpoint_every = 32},
      {.length = 100, .checkpoint_every = 45},
      {.batch = 1, .length = 4300, .channels = 3, .states = 2, .checkpoint_every = 64},
      {.batch = 1, .length = 4300, .channels = 3, .states = 2, .checkpoint_every = 2100},
      {.batch = 1,
       .length = 4300,
       .channels = 3,
       .states = 2,
       .cu_seqlens = {0, 300, 300, 4000, 4300},
       .checkpoint_every = 30},
  };
}

TEST(SelectiveScanSplit, BackwardFromCheckpointsMatchesTheOracle) {
  const TestContext context;
  for (const SelectiveScanCase& c : checkpoint_cases()) {
    SCOPED_TRACE(describe(c));
    const SelectiveScanArgs a = c.values();
    const Argument checkpoints = run_selective_scan(a, {}, context).at("checkpoints");
    expect_results(
        run_selective_scan_backward(a, c.dy(), c.dfinal_state(), {}, context, checkpoints),
        by_name(oracle_selective_scan_backward(a, c.dy(), c.dfinal_state()), a));
  }
}

// Other states in their place give another gradient: backward starts from what it is given.
TEST(SelectiveScanSplit, BackwardReadsCheckpoints) {
  const TestContext context;
  for (const SelectiveScanCase& c : checkpoint_cases()) {
    SCOPED_TRACE(describe(c));
    const SelectiveScanArgs a = c.values();
    Array states = run_selective_scan(a, {}, context).at("checkpoints").array();
    for (double& state : states.data) state += 100.0;
    const Array dC = run_selective_scan_backward(a, c.dy(), c.dfinal_state(), {}, context,
                                                 Argument::input(states))
                         .at("dC")
                         .array();
    const Array want = oracle_selective_scan_backward(a, c.dy(), c.dfinal_state()).dC;
    EXPECT_GT(difference(dC, want).error, 1e-3);
  }
}

}  // namespace
}  // namespace hax_test
