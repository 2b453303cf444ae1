#include "scan/scan_step_case.hpp"
#include "scan/selective_scan_case.hpp"

namespace hax_test {
namespace {

struct SelectiveScan {
  using Case = SelectiveScanCase;
  static SelectiveScanArgs values(const Case& c) { return c.values(); }
  static ScanResult oracle(const SelectiveScanArgs& a) { return oracle_selective_scan(a); }

  static SelectiveScanArgs entry_of(const SelectiveScanArgs& all, int64_t b, int64_t tokens,
                                    const Array& state) {
    SelectiveScanArgs a = all;
    for (Array SelectiveScanArgs::*field : kTokens) a.*field = entry(all.*field, b, tokens);
    a.initial_state = state;
    return a;
  }
  static SelectiveScanArgs tokens_of(const SelectiveScanArgs& all, int64_t begin, int64_t end) {
    SelectiveScanArgs a = all;
    for (Array SelectiveScanArgs::*field : kTokens) {
      a.*field = slice_axis(all.*field, 1, begin, end);
    }
    return a;
  }
  static hax_status run(const SelectiveScanArgs& a, const ScanOptions& o, const Argument& state,
                        const Argument& src, const Argument& dst, const Argument& y,
                        const hax_context* context) {
    const SelectiveScanInputs in(a, o);
    hax_selective_scan_step_args args = {};
    in.bind_step(args);
    args.state = state.arg();
    args.src_slots = src.arg();
    args.dst_slots = dst.arg();
    args.y = y.arg();
    return hax_test::run(hax_selective_scan_step_workspace, hax_selective_scan_step, context, args);
  }

  static constexpr Array SelectiveScanArgs::*kTokens[] = {
      &SelectiveScanArgs::u, &SelectiveScanArgs::delta, &SelectiveScanArgs::B,
      &SelectiveScanArgs::C, &SelectiveScanArgs::z};
};

SelectiveScanCase step_case() {
  return {.batch = kStepBatch,
          .length = kStepTokens,
          .channels = 21,
          .states = 6,
          .groups = 3,
          .initial_state = false};
}

TEST(SelectiveScanStep, Slots) {
  const TestContext context(2);
  for (const SlotCase& slots : slot_cases()) {
    expect_step_matches<SelectiveScan>(step_case(), slots, context);
  }
}

TEST(SelectiveScanStep, EveryTypeAndLayoutOnEveryCpuLevel) {
  for (const std::string& level : available_cpu_levels()) {
    const TestContext context(2, level.c_str());
    for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
      for (const hax_data_type state_type : {kFp32, kFp16, kBf16}) {
        for (const Layout layout : kLayouts) {
          SelectiveScanCase c = step_case();
          c.options = {.type = type, .state_type = state_type, .layout = layout};
          SCOPED_TRACE(level + " " + describe(c));
          expect_step_matches<SelectiveScan>(c, slot_cases().back(), context);
        }
      }
    }
  }
}

TEST(SelectiveScanStep, ManyTokensAndNone) {
  const TestContext context;
  for (const int64_t tokens : {0, 1, 31, 32, 33, 70}) {
    SelectiveScanCase c = step_case();
    c.length = tokens;
    SCOPED_TRACE(tokens);
    expect_step_matches<SelectiveScan>(c, {}, context);
  }
}

TEST(SelectiveScanStep, StepByStepEqualsWhole) {
  const TestContext context;
  expect_steps_equal_whole<SelectiveScan>({.batch = 2, .length = 150, .channels = 20}, context);
}

TEST(SelectiveScanStep, RejectsSlotsOutsideThePool) {
  const StayOnCpu here;  // on CUDA the content of slots is the caller's duty
  const TestContext context;
  const SelectiveScanArgs a = step_case().values();
  const Argument state = Argument::input(random_normal({4, 21, 6}, 3));
  const Argument y = Argument::output(step_case().tokens_shape());
  EXPECT_EQ(SelectiveScan::run(a, {}, state, Argument::indices({1, 4, 0}), {}, y, context),
            HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_STREQ(hax_last_error(),
               "hax_selective_scan_step: src_slots[1]: expected less than slots=4, got 4");
  EXPECT_EQ(SelectiveScan::run(a, {}, state, {}, Argument::indices({1, 2, 9}), y, context),
            HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_TRUE(y.untouched() && state.untouched());
}

}  // namespace
}  // namespace hax_test
