// Steps of the two scans over pools of slots, checked against the oracle sequence by sequence.
#pragma once

#include "scan/scan_case.hpp"

namespace hax_test {

struct SlotCase {
  std::string name;
  std::vector<int64_t> src = {};  // empty: not given
  Array dst = {};                 // (B) or (B, T); absent: not given
};

inline constexpr int64_t kStepBatch = 3, kStepTokens = 5, kStepSlots = 12;

inline std::vector<SlotCase> slot_cases() {
  return {
      {"in place"},
      {"chosen slots", {7, 0, 11}},
      {"padding", {7, -1, -5}},
      {"padding only", {-1, -1, -1}},
      {"destinations apart", {0, 1, 2}, Array({3}, {5, -1, 6})},
      {"destinations without sources", {}, Array({3}, {9, 1, 10})},
      {"after every token",
       {0, 1, -1},
       Array({3, 5}, {3, 4, 5, -1, 0, -1, -1, 6, 7, 8, -1, -1, -1, -1, -1})},
  };
}

// Entry b of a (B, T, ...) tensor, its first `tokens` tokens; absent stays absent.
inline Array entry(const Array& tokens_of_all, int64_t b, int64_t tokens) {
  if (!tokens_of_all.present()) return {};
  return slice_axis(slice_axis(tokens_of_all, 0, b, b + 1), 1, 0, tokens);
}

// Scan gives: Case; values(case); entry_of(values, b, tokens, state); oracle(values); tokens_shape(case);
// run(values, options, state, src, dst, y, context), which answers the call's status.
template <class Scan>
void expect_step_matches(const typename Scan::Case& c, const SlotCase& slots,
                         const hax_context* context) {
  SCOPED_TRACE(slots.name);
  const auto all = Scan::values(c);
  std::vector<int64_t> pool_shape = c.state_shape();
  pool_shape[0] = kStepSlots;
  const Array pool = round_to(random_normal(pool_shape, 77), c.options.state_type);
  const Argument state = Argument::input(pool, c.options.state_type, c.options.layout);
  const Argument src = slots.src.empty() ? Argument() : Argument::indices(slots.src);
  const Argument dst = Argument::input(slots.dst, kInt32);
  const Argument y = Argument::output(c.tokens_shape(), c.options.type, c.options.layout);
  ASSERT_EQ(Scan::run(all, c.options, state, src, dst, y, context), HAX_SUCCESS)
      << hax_last_error();
  EXPECT_TRUE(state.sentinels_intact());
  EXPECT_TRUE(y.sentinels_intact());

  Array want_pool = pool;
  const Array y_values = y.array();
  const int64_t size = pool.numel() / kStepSlots;
  for (int64_t b = 0; b < c.batch; ++b) {
    const int64_t slot = slots.src.empty() ? b : slots.src[static_cast<size_t>(b)];
    const Array got = slice_axis(y_values, 0, b, b + 1);
    if (slot < 0) {
      for (const double value : got.data) EXPECT_TRUE(std::isnan(value)) << "padding was written";
      continue;
    }
    const Array start = slice_axis(pool, 0, slot, slot + 1);
    for (int64_t t = 0; t < c.length; ++t) {
      const ScanResult want = Scan::oracle(Scan::entry_of(all, b, t + 1, start));
      int64_t target = -1;
      if (slots.dst.rank() == 2) {
        target = static_cast<int64_t>(slots.dst.at(b, t));
      } else if (t + 1 == c.length) {
        target = slots.dst.present() ? static_cast<int64_t>(slots.dst.at(b)) : slot;
      }
      if (t + 1 == c.length) {
        EXPECT_TRUE(expect_close("y", got, want.y, scan_tolerance(c.options.type)));
      }
      if (target < 0) continue;
      for (int64_t i = 0; i < size; ++i) {
        want_pool.data[static_cast<size_t>(target * size + i)] =
            want.final_state.data[static_cast<size_t>(i)];
      }
    }
  }
  const Array got_pool = state.array();
  EXPECT_TRUE(expect_close("state", got_pool, want_pool, scan_tolerance(c.options.state_type)));
  for (int64_t i = 0; i < pool.numel(); ++i) {
    const auto at = static_cast<size_t>(i);
    if (want_pool.data[at] == pool.data[at]) {
      EXPECT_EQ(got_pool.data[at], pool.data[at]) << "a slot that is no destination was written";
    }
  }
}

// Token by token through slot 0 of a pool of one: what was carried equals the whole sequence.
template <class Scan>
void expect_steps_equal_whole(const typename Scan::Case& c, const hax_context* context) {
  const auto all = Scan::values(c);
  const ScanResult want = Scan::oracle(all);
  const Argument state = Argument::input(all.initial_state);
  std::vector<Array> ys;
  for (int64_t t = 0; t < c.length; ++t) {
    std::vector<int64_t> shape = c.tokens_shape();
    shape[1] = 1;
    const Argument y = Argument::output(shape);
    ASSERT_EQ(Scan::run(Scan::tokens_of(all, t, t + 1), c.options, state, {}, {}, y, context),
              HAX_SUCCESS)
        << hax_last_error();
    ys.push_back(y.array());
  }
  EXPECT_TRUE(expect_close("y", concat_axis(ys, 1), want.y, 1e-5));
  EXPECT_TRUE(expect_close("state", state.array(), want.final_state, 1e-5));
}

}  // namespace hax_test
