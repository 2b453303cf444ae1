#include "scan/causal_conv1d_case.hpp"

namespace hax_test {
namespace {

constexpr int64_t kBatch = 3, kTokens = 5, kChannels = 70, kSlots = 12;

struct StepCase {
  int64_t width = 4;
  hax_data_type type = kFp32;
  hax_data_type state_type = kFp32;
  std::vector<int64_t> src = {};
  Array dst = {};  // (B) or (B, T); absent: not given
};

// Runs the step and checks every y and every slot against the oracle, sequence by sequence.
void expect_step_matches(const StepCase& c, const hax_context* context) {
  const Array x = round_to(random_normal({kBatch, kTokens, kChannels}, 1), c.type);
  const Array weight = random_normal({kChannels, c.width}, 2);
  const Array bias = random_normal({kChannels}, 3);
  const Array pool = round_to(random_normal({kSlots, c.width - 1, kChannels}, 4), c.state_type);
  const Argument x_arg = Argument::input(x, c.type), weight_arg = Argument::input(weight);
  const Argument bias_arg = Argument::input(bias), state = Argument::input(pool, c.state_type);
  const Argument src = c.src.empty() ? Argument() : Argument::indices(c.src);
  const Argument dst = Argument::input(c.dst, kInt32);
  const Argument y = Argument::output({kBatch, kTokens, kChannels}, c.type);
  hax_causal_conv1d_step_args args = {};
  args.x = x_arg.arg();
  args.weight = weight_arg.arg();
  args.bias = bias_arg.arg();
  args.state = state.arg();
  args.src_slots = src.arg();
  args.dst_slots = dst.arg();
  args.y = y.arg();
  args.activation = HAX_ACTIVATION_SILU;
  HAX_RUN(causal_conv1d_step, context, args);
  EXPECT_TRUE(state.sentinels_intact() && y.sentinels_intact());

  Array want_pool = pool;
  const Array y_values = y.array();
  for (int64_t b = 0; b < kBatch; ++b) {
    const int64_t slot = c.src.empty() ? b : c.src[static_cast<size_t>(b)];
    const Array got = slice_axis(y_values, 0, b, b + 1);
    if (slot < 0) {
      for (const double value : got.data) EXPECT_TRUE(std::isnan(value)) << "padding was written";
      continue;
    }
    Conv1dArgs oracle;
    oracle.weight = round_to(weight, kFp32);
    oracle.bias = round_to(bias, kFp32);
    oracle.silu = true;
    oracle.initial_state = slice_axis(pool, 0, slot, slot + 1);
    for (int64_t t = 0; t < kTokens; ++t) {
      oracle.x = slice_axis(slice_axis(x, 0, b, b + 1), 1, 0, t + 1);
      const Conv1dResult want = oracle_causal_conv1d(oracle);
      int64_t target = -1;
      if (c.dst.rank() == 2) {
        target = static_cast<int64_t>(c.dst.at(b, t));
      } else if (t + 1 == kTokens) {
        target = c.dst.present() ? static_cast<int64_t>(c.dst.at(b)) : slot;
        EXPECT_TRUE(expect_close("y", got, want.y, forward_tolerance(c.type)));
      }
      for (int64_t i = 0; target >= 0 && i < c.width - 1; ++i) {
        for (int64_t d = 0; d < kChannels; ++d) {
          want_pool.at(target, i, d) = round_to(want.final_state.at(0, i, d), c.state_type);
        }
      }
    }
  }
  EXPECT_TRUE(expect_close("state", state.array(), want_pool, 1e-6));
}

TEST(CausalConv1dStep, SlotsInPlace) {
  const TestContext context;
  expect_step_matches({}, context);
  expect_step_matches({.src = {7, 0, 11}}, context);
}

TEST(CausalConv1dStep, NegativeSlotsArePadding) {
  const TestContext context;
  expect_step_matches({.src = {7, -1, -5}}, context);
  expect_step_matches({.src = {-1, -1, -1}}, context);
}

TEST(CausalConv1dStep, DestinationsApart) {
  const TestContext context;
  expect_step_matches({.src = {0, 1, 2}, .dst = Array({3}, {5, -1, 6})}, context);
}

TEST(CausalConv1dStep, StateAfterEveryToken) {
  const TestContext context;
  expect_step_matches({.src = {0, 1, -1},
                       .dst = Array({3, 5}, {3, 4, 5, -1, 0, -1, -1, 6, 7, 8, -1, -1, -1, -1, -1})},
                      context);
}

TEST(CausalConv1dStep, EveryTypeWidthAndCpuLevel) {
  for (const std::string& level : available_cpu_levels()) {
    const TestContext context(2, level.c_str());
    for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
      for (int64_t width = 2; width <= 8; ++width) {
        SCOPED_TRACE(level + " " + name_of(type) + " W" + std::to_string(width));
        expect_step_matches({.width = width, .type = type, .state_type = type}, context);
        expect_step_matches({.width = width, .type = type, .state_type = kFp32}, context);
      }
    }
  }
}

TEST(CausalConv1dStep, RejectsSlotsOutsideThePool) {
  const StayOnCpu here;  // on CUDA the content of slots is the caller's duty
  const TestContext context;
  const Argument x = Argument::input(random_normal({2, 1, 3}, 1));
  const Argument weight = Argument::input(random_normal({3, 4}, 2));
  const Argument state = Argument::input(random_normal({4, 3, 3}, 3));
  const Argument y = Argument::output({2, 1, 3});
  const Argument src = Argument::indices({1, 4}), dst = Argument::indices({9, 2});
  const Argument good = Argument::indices({1, 2});
  hax_causal_conv1d_step_args args = {};
  args.x = x.arg();
  args.weight = weight.arg();
  args.state = state.arg();
  args.y = y.arg();
  args.src_slots = src.arg();
  const auto status = [&] {
    return run(hax_causal_conv1d_step_workspace, hax_causal_conv1d_step, context, args);
  };
  EXPECT_EQ(status(), HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_STREQ(hax_last_error(),
               "hax_causal_conv1d_step: src_slots[1]: expected less than slots=4, got 4");
  args.src_slots = good.arg();
  args.dst_slots = dst.arg();
  EXPECT_EQ(status(), HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_STREQ(
      hax_last_error(),
      "hax_causal_conv1d_step: dst_slots: sequence 0, token 0: expected less than slots=4, "
      "got 9");
  EXPECT_TRUE(y.untouched() && state.untouched());
}

}  // namespace
}  // namespace hax_test
