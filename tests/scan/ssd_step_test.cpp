#include "scan/scan_step_case.hpp"
#include "scan/ssd_case.hpp"

namespace hax_test {
namespace {

struct Ssd {
  using Case = SsdCase;
  static SsdArgs values(const Case& c) { return c.values(); }
  static ScanResult oracle(const SsdArgs& a) { return oracle_ssd(a); }

  static SsdArgs entry_of(const SsdArgs& all, int64_t b, int64_t tokens, const Array& state) {
    SsdArgs a = all;
    for (Array SsdArgs::*field : kTokens) a.*field = entry(all.*field, b, tokens);
    a.initial_state = state;
    return a;
  }
  static SsdArgs tokens_of(const SsdArgs& all, int64_t begin, int64_t end) {
    SsdArgs a = all;
    for (Array SsdArgs::*field : kTokens) a.*field = slice_axis(all.*field, 1, begin, end);
    return a;
  }
  static hax_status run(const SsdArgs& a, const ScanOptions& o, const Argument& state,
                        const Argument& src, const Argument& dst, const Argument& y,
                        const hax_context* context) {
    const SsdInputs in(a, o);
    hax_ssd_step_args args = {};
    in.bind_step(args);
    args.state = state.arg();
    args.src_slots = src.arg();
    args.dst_slots = dst.arg();
    args.y = y.arg();
    return hax_test::run(hax_ssd_step_workspace, hax_ssd_step, context, args);
  }

  static constexpr Array SsdArgs::*kTokens[] = {&SsdArgs::x, &SsdArgs::dt, &SsdArgs::B, &SsdArgs::C,
                                                &SsdArgs::z};
};

SsdCase step_case() {
  return {
      .batch = kStepBatch, .length = kStepTokens, .heads = 6, .groups = 3, .initial_state = false};
}

TEST(SsdStep, Slots) {
  const TestContext context(2);
  for (const SlotCase& slots : slot_cases()) {
    expect_step_matches<Ssd>(step_case(), slots, context);
  }
}

TEST(SsdStep, EveryTypeAndLayoutOnEveryCpuLevel) {
  for (const std::string& level : available_cpu_levels()) {
    const TestContext context(2, level.c_str());
    for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
      for (const hax_data_type state_type : {kFp32, kFp16, kBf16}) {
        for (const Layout layout : kLayouts) {
          SsdCase c = step_case();
          c.options = {.type = type, .state_type = state_type, .dt_type = type, .layout = layout};
          SCOPED_TRACE(level + " " + describe(c));
          expect_step_matches<Ssd>(c, slot_cases().back(), context);
        }
      }
    }
  }
}

TEST(SsdStep, ManyTokensNoneAndLimits) {
  const TestContext context;
  for (const int64_t tokens : {0, 1, 31, 32, 33, 70}) {
    SsdCase c = step_case();
    c.length = tokens;
    c.skip_rank = 2;
    c.dt_min = 0.2;
    c.dt_max = 0.4;
    SCOPED_TRACE(tokens);
    expect_step_matches<Ssd>(c, {}, context);
  }
}

TEST(SsdStep, StepByStepEqualsWhole) {
  const TestContext context;
  expect_steps_equal_whole<Ssd>({.batch = 2, .length = 150, .heads = 5}, context);
}

TEST(SsdStep, RejectsSlotsOutsideThePool) {
  if (tests_use_cuda()) GTEST_SKIP() << "on CUDA the content of slots is the caller's duty";
  const TestContext context;
  const SsdArgs a = step_case().values();
  const Argument state = Argument::input(random_normal({4, 6, 5, 6}, 3));
  const Argument y = Argument::output(step_case().tokens_shape());
  EXPECT_EQ(Ssd::run(a, {}, state, Argument::indices({1, 4, 0}), {}, y, context),
            HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_STREQ(hax_last_error(), "hax_ssd_step: src_slots[1]: expected less than slots=4, got 4");
  EXPECT_EQ(Ssd::run(a, {}, state, {}, Argument::indices({1, 2, 9}), y, context),
            HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_TRUE(y.untouched() && state.untouched());
}

}  // namespace
}  // namespace hax_test
