// CUDA cuts long sequences of few channels, with bf16 activations and 16 states, into segments that run side by
// side; what a segment owes to those before is added until it no longer counts.
#include <cmath>

#include "scan/selective_scan_case.hpp"

namespace hax_test {
namespace {

SelectiveScanCase long_case(int64_t length, int64_t channels) {
  return {
      .batch = 1, .length = length, .channels = channels, .states = 16, .options = {.type = kBf16}};
}

void expect_forward(const SelectiveScanCase& c, const SelectiveScanArgs& a,
                    const hax_context* context, double least_tolerance = 0.0) {
  SCOPED_TRACE(describe(c));
  const ScanResult want = oracle_selective_scan(a);
  expect_results(run_selective_scan(a, c.options, context),
                 {{"y", want.y}, {"final_state", want.final_state}}, least_tolerance);
}

// Segments of some 2,048 tokens.
constexpr int64_t kLength = 96 * 1024;

TEST(SelectiveScanSegments, LengthsAndChannels) {
  const TestContext context;
  for (const int64_t extra : {0, 1, 7, 2050}) {
    SelectiveScanCase c = long_case(kLength + extra, extra == 7 ? 18 : 16);
    c.batch = extra == 1 ? 2 : 1;
    c.groups = extra == 2050 ? 2 : 1;
    c.z = extra != 7;
    c.initial_state = extra != 1;
    expect_forward(c, c.values(), context);
  }
}

// States that hardly decay, or grow a little, count over many segments. The state is then a sum of 98,000 terms of
// which each has 17 bits.
TEST(SelectiveScanSegments, LongMemory) {
  const TestContext context;
  const SelectiveScanCase c = long_case(kLength + 100, 4);
  for (const double rate : {0.0, 1e-4, -1e-5}) {
    SCOPED_TRACE(rate);
    SelectiveScanArgs a = c.values();
    for (double& value : a.A.data) value *= rate;
    a.A = round_to(a.A, kFp32);
    expect_forward(c, a, context, 2e-5);
  }
}

// Neither what came in first, however large beside the rest, may be dropped early nor what comes later.
TEST(SelectiveScanSegments, LoudAndSilentSegments) {
  const TestContext context;
  const SelectiveScanCase c = long_case(kLength, 4);
  for (const bool loud_first : {false, true}) {
    SCOPED_TRACE(loud_first);
    SelectiveScanArgs a = c.values();
    for (double& value : a.A.data) value *= 0.001;
    a.A = round_to(a.A, kFp32);
    for (int64_t t = 0; t < c.length; ++t) {
      for (int64_t d = 0; d < c.channels; ++d) {
        if ((t < c.length / 3) != loud_first) a.u.at(0, t, d) = 0.0;
      }
    }
    expect_forward(c, a, context, 2e-5);  // the CPU's fp32 sums lose 1.3e-5 here
  }
}

TEST(SelectiveScanSegments, NotANumberTravelsOn) {
  const TestContext context;
  const SelectiveScanCase c = long_case(kLength, 4);
  SelectiveScanArgs a = c.values();
  a.u.at(0, 1000, 3) = std::nan("");
  const NamedArguments got = run_selective_scan(a, c.options, context);
  const Array y = got.at("y").array();
  for (const int64_t t : {0, 999, 1000, 2047, 2048, 4095, 4096, 50000, 98303}) {
    for (int64_t d = 0; d < c.channels; ++d) {
      EXPECT_EQ(std::isnan(y.at(0, t, d)), t >= 1000 && d == 3) << t << " " << d;
    }
  }
}

}  // namespace
}  // namespace hax_test
