// What the two scans refuse, and the sentence they say.
#include "scan/selective_scan_case.hpp"
#include "scan/ssd_case.hpp"

namespace hax_test {
namespace {

struct SelectiveScanCall {
  explicit SelectiveScanCall(const SelectiveScanCase& c) : a(c.values()), in(a, c.options) {
    y = Argument::output(c.tokens_shape());
    in.bind(forward);
    forward.y = y.arg();
    in.bind(backward);
    backward.dy = in.u.arg();
  }
  std::string forward_error() {
    EXPECT_NE(
        run(hax_selective_scan_forward_workspace, hax_selective_scan_forward, context, forward),
        HAX_SUCCESS);
    EXPECT_TRUE(y.untouched());
    return hax_last_error();
  }
  std::string backward_error() {
    EXPECT_NE(
        run(hax_selective_scan_backward_workspace, hax_selective_scan_backward, context, backward),
        HAX_SUCCESS);
    return hax_last_error();
  }

  TestContext context;
  SelectiveScanArgs a;
  SelectiveScanInputs in;
  Argument y;
  hax_selective_scan_forward_args forward = {};
  hax_selective_scan_backward_args backward = {};
};

struct SsdCall {
  explicit SsdCall(const SsdCase& c) : a(c.values()), in(a, c.options) {
    y = Argument::output(c.tokens_shape());
    in.bind(forward);
    forward.y = y.arg();
    in.bind(backward);
    backward.dy = in.x.arg();
  }
  std::string forward_error() {
    EXPECT_NE(run(hax_ssd_forward_workspace, hax_ssd_forward, context, forward), HAX_SUCCESS);
    EXPECT_TRUE(y.untouched());
    return hax_last_error();
  }
  std::string backward_error() {
    EXPECT_NE(run(hax_ssd_backward_workspace, hax_ssd_backward, context, backward), HAX_SUCCESS);
    return hax_last_error();
  }

  TestContext context;
  SsdArgs a;
  SsdInputs in;
  Argument y;
  hax_ssd_forward_args forward = {};
  hax_ssd_backward_args backward = {};
};

TEST(ScanArguments, Sizes) {
  EXPECT_EQ(SelectiveScanCall({.states = 257}).forward_error(),
            "hax_selective_scan_forward: N: expected 1 to 256, got 257");
  EXPECT_EQ(SelectiveScanCall({.states = 0}).forward_error(),
            "hax_selective_scan_forward: N: expected 1 to 256, got 0");
  EXPECT_EQ(SelectiveScanCall({.groups = 2}).forward_error(),
            "hax_selective_scan_forward: G: expected a divisor of D=9, got 2");
  EXPECT_EQ(SsdCall({.states = 257}).forward_error(),
            "hax_ssd_forward: N: expected 1 to 256, got 257");
  EXPECT_EQ(SsdCall({.width = 257}).forward_error(),
            "hax_ssd_forward: P: expected 1 to 256, got 257");
  EXPECT_EQ(SsdCall({.heads = 4, .groups = 3}).forward_error(),
            "hax_ssd_forward: G: expected a divisor of H=4, got 3");
}

TEST(ScanArguments, GradientsOfAbsentInputs) {
  const Argument out = Argument::output({9});
  SelectiveScanCall scan({.D = false, .z = false, .bias = false});
  scan.backward.dD = out.arg();
  EXPECT_EQ(scan.backward_error(), "hax_selective_scan_backward: dD: expected NULL, as D is NULL");
  scan.backward.dD = nullptr;
  scan.backward.dz = scan.y.arg();
  EXPECT_EQ(scan.backward_error(), "hax_selective_scan_backward: dz: expected NULL, as z is NULL");
  scan.backward.dz = nullptr;
  scan.backward.ddelta_bias = out.arg();
  EXPECT_EQ(scan.backward_error(),
            "hax_selective_scan_backward: ddelta_bias: expected NULL, as delta_bias is NULL");
  SsdCall ssd({.skip_rank = 0, .z = false, .bias = false});
  ssd.backward.dD = out.arg();
  EXPECT_EQ(ssd.backward_error(), "hax_ssd_backward: dD: expected NULL, as D is NULL");
  ssd.backward.dD = nullptr;
  ssd.backward.dz = ssd.y.arg();
  EXPECT_EQ(ssd.backward_error(), "hax_ssd_backward: dz: expected NULL, as z is NULL");
  ssd.backward.dz = nullptr;
  ssd.backward.ddt_bias = out.arg();
  EXPECT_EQ(ssd.backward_error(), "hax_ssd_backward: ddt_bias: expected NULL, as dt_bias is NULL");
}

TEST(ScanArguments, ShapeOfTheSkipGradient) {
  SsdCall ssd({.skip_rank = 2});
  const Argument out = Argument::output({3});
  ssd.backward.dD = out.arg();
  EXPECT_EQ(ssd.backward_error(),
            "hax_ssd_backward: dD: expected the shape of D, with ndim 2, got ndim 1");
}

TEST(ScanArguments, Checkpoints) {
  SelectiveScanCall scan({});
  scan.forward.checkpoint_every = 4;
  EXPECT_EQ(scan.forward_error(),
            "hax_selective_scan_forward: checkpoint_every: expected 0 without checkpoints, got 4");
  const Argument states = Argument::output({2, 9, 9, 5});
  scan.forward.checkpoints = states.arg();
  scan.forward.checkpoint_every = 0;
  EXPECT_EQ(scan.forward_error(),
            "hax_selective_scan_forward: checkpoint_every: expected at least 1 beside checkpoints, "
            "got 0");
  scan.forward.checkpoint_every = 5;
  EXPECT_EQ(scan.forward_error(),
            "hax_selective_scan_forward: checkpoints: expected shape (B=2, L/checkpoint_every=7, "
            "D=9, N=5), got (2, 9, 9, 5)");
  const Argument half = Argument::input(zeros({2, 9, 9, 5}), kFp16);
  scan.backward.checkpoints = half.arg();
  scan.backward.checkpoint_every = 4;
  EXPECT_EQ(scan.backward_error(),
            "hax_selective_scan_backward: checkpoints: expected fp32, got fp16");
}

TEST(ScanArguments, LimitsOfDt) {
  SsdCall ssd({});
  ssd.forward.dt_min = -1.0f;
  EXPECT_EQ(ssd.forward_error(), "hax_ssd_forward: dt_min: expected at least 0, got -1");
  ssd.forward.dt_min = 0.5f;
  ssd.forward.dt_max = 0.25f;
  EXPECT_EQ(ssd.forward_error(),
            "hax_ssd_forward: dt_max: expected 0 or at least dt_min=0.5, got 0.25");
}

TEST(ScanArguments, Types) {
  SsdCall ssd({.options = {.dt_type = kFp16}});
  EXPECT_EQ(ssd.forward_error(),
            "hax_ssd_forward: dt: expected fp32 (the type of x) or fp32, got fp16");
  SelectiveScanCall scan({});
  const Argument bf16 = Argument::input(scan.a.delta, kBf16);
  scan.forward.delta = bf16.arg();
  EXPECT_EQ(scan.forward_error(),
            "hax_selective_scan_forward: delta: expected fp32 (the type of u), got bf16");
  scan.forward.delta = scan.in.delta.arg();
  scan.forward.delta_softplus = 2;
  EXPECT_EQ(scan.forward_error(),
            "hax_selective_scan_forward: delta_softplus: expected 0 or 1, got 2");
}

TEST(ScanArguments, WorkspaceTooSmall) {
  SelectiveScanCall scan({});
  scan.backward.struct_size = sizeof(scan.backward);
  size_t bytes = 0;
  ASSERT_EQ(hax_selective_scan_backward_workspace(scan.context, &scan.backward, &bytes),
            HAX_SUCCESS);
  ASSERT_GT(bytes, 0U);
  const Scratch scratch(bytes);
  EXPECT_EQ(
      hax_selective_scan_backward(scan.context, &scan.backward, scratch.data(), bytes - 1, nullptr),
      HAX_ERROR_WORKSPACE_TOO_SMALL);
  EXPECT_EQ(hax_selective_scan_backward(scan.context, &scan.backward, nullptr, bytes, nullptr),
            HAX_ERROR_WORKSPACE_TOO_SMALL);
}

TEST(ScanArguments, CudaTensorsNeedABuildWithCuda) {
  const TestContext context;
  int64_t shape[] = {1, 4, 2, 3};
  hax_tensor x = {};
  x.device = {HAX_DEVICE_CUDA, 0};
  x.ndim = 4;
  x.dtype = HAX_FP32;
  x.shape = shape;
  hax_tensor dt = x, A = x;
  dt.ndim = 3;
  int64_t heads[] = {2};
  A.ndim = 1;
  A.shape = heads;
  hax_ssd_forward_args args = {};
  args.struct_size = sizeof(args);
  args.x = args.B = args.C = args.y = &x;
  args.dt = &dt;
  args.A = &A;
  size_t bytes = 0;
  const hax_status status = hax_ssd_forward_workspace(context, &args, &bytes);
#ifdef HAX_WITH_CUDA
  EXPECT_EQ(status, HAX_SUCCESS) << hax_last_error();
#else
  EXPECT_EQ(status, HAX_ERROR_UNSUPPORTED);
  EXPECT_NE(std::string(hax_last_error()).find("hax_ssd_forward"), std::string::npos);
  EXPECT_NE(std::string(hax_last_error()).find("CUDA"), std::string::npos);
#endif
}

// A query needs shapes alone, and long sequences take memory far below their states'.
TEST(ScanArguments, BackwardOfLongSequencesTakesLittleMemory) {
  const TestContext context(1);
  constexpr int64_t B = 1, L = 131072, D = 2048, N = 16;
  int64_t tokens[] = {B, L, D}, rates[] = {D, N}, states[] = {B, L, 1, N};
  hax_tensor u = {};
  u.device = {HAX_DEVICE_CPU, 0};
  u.ndim = 3;
  u.dtype = HAX_FP32;
  u.shape = tokens;
  hax_tensor A = u, states_tensor = u;
  A.ndim = 2;
  A.shape = rates;
  states_tensor.ndim = 4;
  states_tensor.shape = states;
  hax_selective_scan_backward_args args = {};
  args.struct_size = sizeof(args);
  args.u = args.delta = args.dy = &u;
  args.A = &A;
  args.B = args.C = &states_tensor;
  size_t bytes = 0;
  ASSERT_EQ(hax_selective_scan_backward_workspace(context, &args, &bytes), HAX_SUCCESS)
      << hax_last_error();
  EXPECT_LT(bytes, static_cast<size_t>(B * D * N * (L / 256) * 4));
}

}  // namespace
}  // namespace hax_test
