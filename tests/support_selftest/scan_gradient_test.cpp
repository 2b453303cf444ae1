#include <gtest/gtest.h>

#include "finite_difference.hpp"
#include "oracle_scan.hpp"

// Difference quotients of every gradient of the scan oracles, with all optional inputs present.
namespace hax_test {
namespace {

class ScanGradient : public ::testing::TestWithParam<bool> {
 protected:
  // Two sequences of 7 tokens, or the same tokens packed as sequences of 5, 0, 1 and 8.
  bool packed() const { return GetParam(); }
  int64_t batch() const { return packed() ? 1 : 2; }
  int64_t length() const { return packed() ? 14 : 7; }
  int64_t sequences() const { return packed() ? 4 : 2; }
  std::vector<int64_t> cu_seqlens() const {
    return packed() ? std::vector<int64_t>{0, 5, 5, 6, 14} : std::vector<int64_t>{};
  }
};

TEST_P(ScanGradient, CausalConv1d) {
  for (int64_t width : {2, 4}) {
    for (bool silu : {false, true}) {
      Conv1dArgs args;
      args.x = random_normal({batch(), length(), 3}, 1);
      args.weight = random_normal({3, width}, 2);
      args.bias = random_normal({3}, 3);
      args.initial_state = random_normal({sequences(), width - 1, 3}, 4);
      args.silu = silu;
      args.cu_seqlens = cu_seqlens();
      const Array dy = random_normal(args.x.shape, 5);
      const Array dfinal = random_normal(args.initial_state.shape, 6);
      auto loss = [&] {
        const Conv1dResult r = oracle_causal_conv1d(args);
        return dot(r.y, dy) + dot(r.final_state, dfinal);
      };
      const Conv1dGrads grads = oracle_causal_conv1d_backward(args, dy, dfinal);
      EXPECT_TRUE(expect_gradient("dx", loss, args.x, grads.dx));
      EXPECT_TRUE(expect_gradient("dweight", loss, args.weight, grads.dweight));
      EXPECT_TRUE(expect_gradient("dbias", loss, args.bias, grads.dbias));
      EXPECT_TRUE(
          expect_gradient("dinitial_state", loss, args.initial_state, grads.dinitial_state));
    }
  }
}

TEST_P(ScanGradient, SelectiveScan) {
  for (bool delta_softplus : {false, true}) {
    SelectiveScanArgs args;
    args.u = random_normal({batch(), length(), 4}, 1);
    args.delta = random_uniform({batch(), length(), 4}, 2, 0.1, 0.9);
    args.A = random_uniform({4, 3}, 3, -2.0, -0.2);
    args.B = random_normal({batch(), length(), 2, 3}, 4);
    args.C = random_normal({batch(), length(), 2, 3}, 5);
    args.D = random_normal({4}, 6);
    args.z = random_normal({batch(), length(), 4}, 7);
    args.delta_bias = random_uniform({4}, 8, -0.1, 0.1);
    args.initial_state = random_normal({sequences(), 4, 3}, 9);
    args.delta_softplus = delta_softplus;
    args.cu_seqlens = cu_seqlens();
    const Array dy = random_normal(args.u.shape, 10);
    const Array dfinal = random_normal(args.initial_state.shape, 11);
    auto loss = [&] {
      const ScanResult r = oracle_selective_scan(args);
      return dot(r.y, dy) + dot(r.final_state, dfinal);
    };
    const SelectiveScanGrads grads = oracle_selective_scan_backward(args, dy, dfinal);
    EXPECT_TRUE(expect_gradient("du", loss, args.u, grads.du));
    EXPECT_TRUE(expect_gradient("ddelta", loss, args.delta, grads.ddelta));
    EXPECT_TRUE(expect_gradient("dA", loss, args.A, grads.dA));
    EXPECT_TRUE(expect_gradient("dB", loss, args.B, grads.dB));
    EXPECT_TRUE(expect_gradient("dC", loss, args.C, grads.dC));
    EXPECT_TRUE(expect_gradient("dD", loss, args.D, grads.dD));
    EXPECT_TRUE(expect_gradient("dz", loss, args.z, grads.dz));
    EXPECT_TRUE(expect_gradient("ddelta_bias", loss, args.delta_bias, grads.ddelta_bias));
    EXPECT_TRUE(expect_gradient("dinitial_state", loss, args.initial_state, grads.dinitial_state));
  }
}

TEST_P(ScanGradient, Ssd) {
  for (bool wide_D : {false, true}) {
    SsdArgs args;
    args.x = random_normal({batch(), length(), 4, 2}, 1);
    args.dt = random_uniform({batch(), length(), 4}, 2, -1.5, 1.5);
    args.A = random_uniform({4}, 3, -2.0, -0.2);
    args.B = random_normal({batch(), length(), 2, 3}, 4);
    args.C = random_normal({batch(), length(), 2, 3}, 5);
    args.D = random_normal(wide_D ? std::vector<int64_t>{4, 2} : std::vector<int64_t>{4}, 6);
    args.z = random_normal({batch(), length(), 4, 2}, 7);
    args.dt_bias = random_uniform({4}, 8, -0.1, 0.1);
    args.initial_state = random_normal({sequences(), 4, 2, 3}, 9);
    args.dt_min = 0.4;  // both ends of the clamp hold some of the steps
    args.dt_max = 1.2;
    args.cu_seqlens = cu_seqlens();
    const Array dy = random_normal(args.x.shape, 10);
    const Array dfinal = random_normal(args.initial_state.shape, 11);
    auto loss = [&] {
      const ScanResult r = oracle_ssd(args);
      return dot(r.y, dy) + dot(r.final_state, dfinal);
    };
    const SsdGrads grads = oracle_ssd_backward(args, dy, dfinal);
    const FiniteDifferenceOptions every_coordinate{.samples = 1000, .step = 1e-4};
    EXPECT_TRUE(expect_gradient("dx", loss, args.x, grads.dx));
    EXPECT_TRUE(expect_gradient("ddt", loss, args.dt, grads.ddt, every_coordinate));
    EXPECT_TRUE(expect_gradient("dA", loss, args.A, grads.dA));
    EXPECT_TRUE(expect_gradient("dB", loss, args.B, grads.dB));
    EXPECT_TRUE(expect_gradient("dC", loss, args.C, grads.dC));
    EXPECT_TRUE(expect_gradient("dD", loss, args.D, grads.dD));
    EXPECT_TRUE(expect_gradient("dz", loss, args.z, grads.dz));
    EXPECT_TRUE(expect_gradient("ddt_bias", loss, args.dt_bias, grads.ddt_bias));
    EXPECT_TRUE(expect_gradient("dinitial_state", loss, args.initial_state, grads.dinitial_state));
    int64_t held = 0;
    for (double d : grads.ddt.data) held += d == 0.0 ? 1 : 0;
    EXPECT_GT(held, 0);
    EXPECT_LT(held, grads.ddt.numel());
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, ScanGradient, ::testing::Bool(), [](const auto& test) {
  return test.param ? std::string("packed") : std::string("batch");
});

}  // namespace
}  // namespace hax_test
