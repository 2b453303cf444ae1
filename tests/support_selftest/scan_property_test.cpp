#include <gtest/gtest.h>

#include "comparator.hpp"
#include "oracle_scan.hpp"

// What must hold between runs of the scan oracles: packed = separate, split = whole, checkpoints =
// states of the prefix, and SSD = selective scan where the two recurrences coincide.
namespace hax_test {
namespace {

constexpr double kExact = 1e-14;
const std::vector<int64_t> kCuSeqlens = {0, 3, 3, 4, 11};

Array tokens(const Array& a, int64_t begin, int64_t end) {
  return a.present() ? slice_axis(a, 1, begin, end) : a;
}

SelectiveScanArgs scan_problem() {
  SelectiveScanArgs args;
  args.u = random_normal({1, 11, 4}, 1);
  args.delta = random_normal({1, 11, 4}, 2);
  args.A = random_uniform({4, 3}, 3, -2.0, -0.2);
  args.B = random_normal({1, 11, 2, 3}, 4);
  args.C = random_normal({1, 11, 2, 3}, 5);
  args.D = random_normal({4}, 6);
  args.z = random_normal({1, 11, 4}, 7);
  return args;
}

SelectiveScanArgs scan_tokens(SelectiveScanArgs args, int64_t begin, int64_t end) {
  args.u = tokens(args.u, begin, end);
  args.delta = tokens(args.delta, begin, end);
  args.B = tokens(args.B, begin, end);
  args.C = tokens(args.C, begin, end);
  args.z = tokens(args.z, begin, end);
  args.cu_seqlens.clear();
  return args;
}

SsdArgs ssd_problem() {
  SsdArgs args;
  args.x = random_normal({1, 11, 4, 2}, 1);
  args.dt = random_normal({1, 11, 4}, 2);
  args.A = random_uniform({4}, 3, -2.0, -0.2);
  args.B = random_normal({1, 11, 2, 3}, 4);
  args.C = random_normal({1, 11, 2, 3}, 5);
  args.D = random_normal({4}, 6);
  args.z = random_normal({1, 11, 4, 2}, 7);
  return args;
}

SsdArgs ssd_tokens(SsdArgs args, int64_t begin, int64_t end) {
  args.x = tokens(args.x, begin, end);
  args.dt = tokens(args.dt, begin, end);
  args.B = tokens(args.B, begin, end);
  args.C = tokens(args.C, begin, end);
  args.z = tokens(args.z, begin, end);
  args.cu_seqlens.clear();
  return args;
}

TEST(ScanProperty, PackedSelectiveScanEqualsSeparateRuns) {
  SelectiveScanArgs args = scan_problem();
  args.cu_seqlens = kCuSeqlens;
  args.initial_state = random_normal({4, 4, 3}, 8);
  const ScanResult packed = oracle_selective_scan(args);
  for (size_t s = 0; s + 1 < kCuSeqlens.size(); ++s) {
    const auto index = static_cast<int64_t>(s);
    SelectiveScanArgs one = scan_tokens(args, kCuSeqlens[s], kCuSeqlens[s + 1]);
    one.initial_state = slice_axis(args.initial_state, 0, index, index + 1);
    const ScanResult alone = oracle_selective_scan(one);
    EXPECT_TRUE(
        expect_close("y", tokens(packed.y, kCuSeqlens[s], kCuSeqlens[s + 1]), alone.y, 0.0));
    EXPECT_TRUE(expect_close("final_state", slice_axis(packed.final_state, 0, index, index + 1),
                             alone.final_state, 0.0));
  }
}

TEST(ScanProperty, PackedSsdEqualsSeparateRuns) {
  SsdArgs args = ssd_problem();
  args.cu_seqlens = kCuSeqlens;
  args.initial_state = random_normal({4, 4, 2, 3}, 8);
  const ScanResult packed = oracle_ssd(args);
  for (size_t s = 0; s + 1 < kCuSeqlens.size(); ++s) {
    const auto index = static_cast<int64_t>(s);
    SsdArgs one = ssd_tokens(args, kCuSeqlens[s], kCuSeqlens[s + 1]);
    one.initial_state = slice_axis(args.initial_state, 0, index, index + 1);
    const ScanResult alone = oracle_ssd(one);
    EXPECT_TRUE(
        expect_close("y", tokens(packed.y, kCuSeqlens[s], kCuSeqlens[s + 1]), alone.y, 0.0));
    EXPECT_TRUE(expect_close("final_state", slice_axis(packed.final_state, 0, index, index + 1),
                             alone.final_state, 0.0));
  }
}

TEST(ScanProperty, SplitRunsHandTheStateOver) {
  SelectiveScanArgs scan = scan_problem();
  scan.initial_state = random_normal({1, 4, 3}, 8);
  SsdArgs ssd = ssd_problem();
  ssd.initial_state = random_normal({1, 4, 2, 3}, 8);
  Conv1dArgs conv;
  conv.x = random_normal({1, 11, 3}, 1);
  conv.weight = random_normal({3, 4}, 2);
  conv.initial_state = random_normal({1, 3, 3}, 3);
  for (int64_t cut = 0; cut <= 11; ++cut) {
    SelectiveScanArgs scan_tail = scan_tokens(scan, cut, 11);
    scan_tail.initial_state = oracle_selective_scan(scan_tokens(scan, 0, cut)).final_state;
    EXPECT_TRUE(expect_close("selective_scan", oracle_selective_scan(scan_tail).y,
                             tokens(oracle_selective_scan(scan).y, cut, 11), kExact));
    SsdArgs ssd_tail = ssd_tokens(ssd, cut, 11);
    ssd_tail.initial_state = oracle_ssd(ssd_tokens(ssd, 0, cut)).final_state;
    EXPECT_TRUE(
        expect_close("ssd", oracle_ssd(ssd_tail).y, tokens(oracle_ssd(ssd).y, cut, 11), kExact));
    Conv1dArgs conv_head = conv, conv_tail = conv;
    conv_head.x = tokens(conv.x, 0, cut);
    conv_tail.x = tokens(conv.x, cut, 11);
    conv_tail.initial_state = oracle_causal_conv1d(conv_head).final_state;
    const Conv1dResult whole = oracle_causal_conv1d(conv), tail = oracle_causal_conv1d(conv_tail);
    EXPECT_TRUE(expect_close("conv", tail.y, tokens(whole.y, cut, 11), 0.0));
    EXPECT_TRUE(expect_close("conv state", tail.final_state, whole.final_state, 0.0));
  }
}

TEST(ScanProperty, CheckpointsAreStatesOfPrefixes) {
  SelectiveScanArgs scan = scan_problem();
  scan.checkpoint_every = 4;
  SsdArgs ssd = ssd_problem();
  ssd.checkpoint_every = 4;
  const Array scan_states = oracle_selective_scan(scan).checkpoints;
  const Array ssd_states = oracle_ssd(ssd).checkpoints;
  ASSERT_EQ(scan_states.size(0), 2);
  ASSERT_EQ(ssd_states.size(0), 2);
  for (int64_t c = 0; c < 2; ++c) {
    const int64_t end = 4 * (c + 1);
    EXPECT_TRUE(expect_close("selective_scan", slice_axis(scan_states, 0, c, c + 1),
                             oracle_selective_scan(scan_tokens(scan, 0, end)).final_state, 0.0));
    EXPECT_TRUE(expect_close("ssd", slice_axis(ssd_states, 0, c, c + 1),
                             oracle_ssd(ssd_tokens(ssd, 0, end)).final_state, 0.0));
  }
  scan.cu_seqlens = {0, 5, 11};  // one checkpoint in each
  EXPECT_EQ(oracle_selective_scan(scan).checkpoints.size(0), 2);
  scan.cu_seqlens = {0, 3, 11};  // none, two
  const Array packed = oracle_selective_scan(scan).checkpoints;
  ASSERT_EQ(packed.size(0), 2);
  EXPECT_TRUE(expect_close("packed", slice_axis(packed, 0, 0, 1),
                           oracle_selective_scan(scan_tokens(scan, 3, 7)).final_state, 0.0));
}

TEST(ScanProperty, SsdEqualsSelectiveScanOfRepeatedParameters) {
  const SsdArgs ssd = ssd_problem();
  SelectiveScanArgs scan;
  scan.u = ssd.x.reshape({1, 11, 8});
  scan.z = ssd.z.reshape({1, 11, 8});
  scan.delta = zeros({1, 11, 8});
  scan.A = zeros({8, 3});
  scan.D = zeros({8});
  scan.B = ssd.B;
  scan.C = ssd.C;
  for (int64_t d = 0; d < 8; ++d) {
    for (int64_t t = 0; t < 11; ++t) scan.delta.at(0, t, d) = ssd.dt.at(0, t, d / 2);
    for (int64_t n = 0; n < 3; ++n) scan.A.at(d, n) = ssd.A.at(d / 2);
    scan.D.at(d) = ssd.D.at(d / 2);
  }
  const ScanResult got = oracle_ssd(ssd), want = oracle_selective_scan(scan);
  EXPECT_TRUE(expect_close("y", got.y.reshape(want.y.shape), want.y, kExact));
  EXPECT_TRUE(expect_close("final_state", got.final_state.reshape(want.final_state.shape),
                           want.final_state, kExact));
}

TEST(ScanProperty, NoTokensAndNoSequences) {
  SelectiveScanArgs args = scan_tokens(scan_problem(), 0, 0);
  args.initial_state = random_normal({1, 4, 3}, 8);
  const ScanResult r = oracle_selective_scan(args);
  EXPECT_EQ(r.y.numel(), 0);
  EXPECT_TRUE(expect_close("final_state", r.final_state, args.initial_state, 0.0));
  const Array dfinal = random_normal({1, 4, 3}, 9);
  EXPECT_TRUE(expect_close("dinitial_state",
                           oracle_selective_scan_backward(args, r.y, dfinal).dinitial_state, dfinal,
                           0.0));
  args.cu_seqlens = {0};
  args.initial_state = Array();
  EXPECT_EQ(oracle_selective_scan(args).final_state.numel(), 0);
}

}  // namespace
}  // namespace hax_test
