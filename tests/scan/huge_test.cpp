// Tensors of more than 2^31 elements. These tests exist where tests run on a GPU with enough memory.
#ifdef HAX_WITH_CUDA
#include <cuda_runtime_api.h>

#include "scan/causal_conv1d_case.hpp"
#include "scan/selective_scan_case.hpp"
#include "scan/ssd_case.hpp"
#include "support/huge_tensor.hpp"

namespace hax_test {
namespace {

constexpr int64_t kTokens = 2049;
constexpr int64_t kChannels = 1048584;  // times kTokens: 2^31 + 1,064,968
constexpr int64_t kHeads = 16386, kWidth = 64;
static_assert(kTokens * kChannels > int64_t{1} << 31);
static_assert(kTokens * kHeads * kWidth > int64_t{1} << 31);

template <class Args>
void run_on_gpu(hax_status (*query)(const hax_context*, const Args*, size_t*),
                hax_status (*call)(const hax_context*, const Args*, void*, size_t, void*),
                Args& args) {
  const TestContext context;
  args.struct_size = sizeof(Args);
  size_t bytes = 0;
  ASSERT_EQ(query(context, &args, &bytes), HAX_SUCCESS) << hax_last_error();
  HugeTensor workspace = HugeTensor::output({static_cast<int64_t>(bytes / 4 + 1)}, kFp32);
  ASSERT_EQ(call(context, &args, workspace.arg()->data, bytes, nullptr), HAX_SUCCESS)
      << hax_last_error();
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

// Columns [first, first + count) of all tokens, as (1, L, count).
Array tokens_of(const HugeTensor& tensor, int64_t width, int64_t first, int64_t count) {
  return tensor.block(width, 0, kTokens, first, count).reshape({1, kTokens, count});
}

void huge_causal_conv1d() {
  constexpr int64_t kTaps = 4;
  HugeTensor x = HugeTensor::input({1, kTokens, kChannels}, kBf16, -1.0, 1.0, 1);
  HugeTensor dy = HugeTensor::input({1, kTokens, kChannels}, kBf16, -1.0, 1.0, 2);
  HugeTensor weight = HugeTensor::input({kChannels, kTaps}, kFp32, -1.0, 1.0, 3);
  HugeTensor y = HugeTensor::output({1, kTokens, kChannels}, kBf16);
  HugeTensor dx = HugeTensor::output({1, kTokens, kChannels}, kBf16);
  HugeTensor dweight = HugeTensor::output({kChannels, kTaps}, kFp32);
  hax_causal_conv1d_forward_args forward = {};
  forward.x = x.arg();
  forward.weight = weight.arg();
  forward.y = y.arg();
  forward.activation = HAX_ACTIVATION_SILU;
  run_on_gpu(hax_causal_conv1d_forward_workspace, hax_causal_conv1d_forward, forward);
  hax_causal_conv1d_backward_args backward = {};
  backward.x = x.arg();
  backward.weight = weight.arg();
  backward.dy = dy.arg();
  backward.dx = dx.arg();
  backward.dweight = dweight.arg();
  backward.activation = HAX_ACTIVATION_SILU;
  run_on_gpu(hax_causal_conv1d_backward_workspace, hax_causal_conv1d_backward, backward);
  for (const int64_t first : {int64_t{0}, kChannels / 2 + 3, kChannels - 5}) {
    SCOPED_TRACE("channel " + std::to_string(first));
    Conv1dArgs a;
    a.x = tokens_of(x, kChannels, first, 5);
    a.weight = weight.block(kTaps, first, 5, 0, kTaps);
    a.silu = true;
    EXPECT_TRUE(expect_close("y", tokens_of(y, kChannels, first, 5), oracle_causal_conv1d(a).y,
                             forward_tolerance(kBf16)));
    const Conv1dGrads want = oracle_causal_conv1d_backward(a, tokens_of(dy, kChannels, first, 5));
    EXPECT_TRUE(
        expect_close("dx", tokens_of(dx, kChannels, first, 5), want.dx, backward_tolerance(kBf16)));
    EXPECT_TRUE(
        expect_close("dweight", dweight.block(kTaps, first, 5, 0, kTaps), want.dweight, 1e-5));
  }
}

void huge_selective_scan() {
  constexpr int64_t kStates = 4;
  HugeTensor u = HugeTensor::input({1, kTokens, kChannels}, kBf16, -1.0, 1.0, 1);
  HugeTensor delta = HugeTensor::input({1, kTokens, kChannels}, kBf16, 0.0, 1.0, 2);
  HugeTensor A = HugeTensor::input({kChannels, kStates}, kFp32, -2.0, -0.05, 3);
  HugeTensor B = HugeTensor::input({1, kTokens, 1, kStates}, kBf16, -1.0, 1.0, 4);
  HugeTensor C = HugeTensor::input({1, kTokens, 1, kStates}, kBf16, -1.0, 1.0, 5);
  HugeTensor y = HugeTensor::output({1, kTokens, kChannels}, kBf16);
  const auto bind = [&](auto& args) {
    args.u = u.arg();
    args.delta = delta.arg();
    args.A = A.arg();
    args.B = B.arg();
    args.C = C.arg();
  };
  hax_selective_scan_forward_args forward = {};
  bind(forward);
  forward.y = y.arg();
  run_on_gpu(hax_selective_scan_forward_workspace, hax_selective_scan_forward, forward);
  HugeTensor dy = HugeTensor::input({1, kTokens, kChannels}, kBf16, -1.0, 1.0, 6);
  HugeTensor du = HugeTensor::output({1, kTokens, kChannels}, kBf16);
  HugeTensor ddelta = HugeTensor::output({1, kTokens, kChannels}, kBf16);
  HugeTensor dA = HugeTensor::output({kChannels, kStates}, kFp32);
  hax_selective_scan_backward_args backward = {};
  bind(backward);
  backward.dy = dy.arg();
  backward.du = du.arg();
  backward.ddelta = ddelta.arg();
  backward.dA = dA.arg();
  run_on_gpu(hax_selective_scan_backward_workspace, hax_selective_scan_backward, backward);
  for (const int64_t first : {int64_t{0}, kChannels / 2 + 3, kChannels - 2}) {
    SCOPED_TRACE("channel " + std::to_string(first));
    const auto columns = [&](const HugeTensor& t) { return tokens_of(t, kChannels, first, 2); };
    const auto whole = [&](const HugeTensor& t) {
      return tokens_of(t, kStates, 0, kStates).reshape({1, kTokens, 1, kStates});
    };
    SelectiveScanArgs a;
    a.u = columns(u);
    a.delta = columns(delta);
    a.A = A.block(kStates, first, 2, 0, kStates);
    a.B = whole(B);
    a.C = whole(C);
    a.delta_softplus = false;
    const double tolerance = scan_tolerance(kBf16);
    EXPECT_TRUE(expect_close("y", columns(y), oracle_selective_scan(a).y, tolerance));
    const SelectiveScanGrads want = oracle_selective_scan_backward(a, columns(dy));
    EXPECT_TRUE(expect_close("du", columns(du), want.du, tolerance));
    EXPECT_TRUE(expect_close("ddelta", columns(ddelta), want.ddelta, tolerance));
    EXPECT_TRUE(expect_close("dA", dA.block(kStates, first, 2, 0, kStates), want.dA, tolerance));
  }
}

void huge_ssd() {
  constexpr int64_t kStates = 16;
  HugeTensor x = HugeTensor::input({1, kTokens, kHeads, kWidth}, kBf16, -1.0, 1.0, 1);
  HugeTensor dt = HugeTensor::input({1, kTokens, kHeads}, kBf16, -2.0, 1.0, 2);
  HugeTensor A = HugeTensor::input({kHeads}, kFp32, -2.0, -0.05, 3);
  HugeTensor B = HugeTensor::input({1, kTokens, 1, kStates}, kBf16, -1.0, 1.0, 4);
  HugeTensor C = HugeTensor::input({1, kTokens, 1, kStates}, kBf16, -1.0, 1.0, 5);
  HugeTensor y = HugeTensor::output({1, kTokens, kHeads, kWidth}, kBf16);
  const auto bind = [&](auto& args) {
    args.x = x.arg();
    args.dt = dt.arg();
    args.A = A.arg();
    args.B = B.arg();
    args.C = C.arg();
  };
  hax_ssd_forward_args forward = {};
  bind(forward);
  forward.y = y.arg();
  run_on_gpu(hax_ssd_forward_workspace, hax_ssd_forward, forward);
  HugeTensor dy = HugeTensor::input({1, kTokens, kHeads, kWidth}, kBf16, -1.0, 1.0, 6);
  HugeTensor dx = HugeTensor::output({1, kTokens, kHeads, kWidth}, kBf16);
  HugeTensor ddt = HugeTensor::output({1, kTokens, kHeads}, kBf16);
  hax_ssd_backward_args backward = {};
  bind(backward);
  backward.dy = dy.arg();
  backward.dx = dx.arg();
  backward.ddt = ddt.arg();
  run_on_gpu(hax_ssd_backward_workspace, hax_ssd_backward, backward);
  for (const int64_t head : {int64_t{0}, kHeads / 2 + 1, kHeads - 1}) {
    SCOPED_TRACE("head " + std::to_string(head));
    const auto columns = [&](const HugeTensor& t) {
      return tokens_of(t, kHeads * kWidth, head * kWidth, kWidth).reshape({1, kTokens, 1, kWidth});
    };
    const auto whole = [&](const HugeTensor& t) {
      return tokens_of(t, kStates, 0, kStates).reshape({1, kTokens, 1, kStates});
    };
    SsdArgs a;
    a.x = columns(x);
    a.dt = tokens_of(dt, kHeads, head, 1);
    a.A = A.block(1, head, 1, 0, 1).reshape({1});
    a.B = whole(B);
    a.C = whole(C);
    EXPECT_TRUE(expect_close("y", columns(y), oracle_ssd(a).y, 1e-2));
    const SsdGrads want = oracle_ssd_backward(a, columns(dy));
    EXPECT_TRUE(expect_close("dx", columns(dx), want.dx, 2e-2));
    EXPECT_TRUE(expect_close("ddt", tokens_of(ddt, kHeads, head, 1), want.ddt, 2e-2));
  }
}

struct HugeCase {
  const char* name;
  int64_t gigabytes;
  void (*run)();
};

std::vector<HugeCase> cases_that_fit() {
  std::vector<HugeCase> cases;
  for (const HugeCase& c :
       {HugeCase{"CausalConv1d", 22, huge_causal_conv1d},
        HugeCase{"SelectiveScan", 44, huge_selective_scan}, HugeCase{"Ssd", 32, huge_ssd}}) {
    if (gpu_has_free(c.gigabytes << 30)) cases.push_back(c);
  }
  return cases;
}

class HugeScans : public ::testing::TestWithParam<HugeCase> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(HugeScans);

TEST_P(HugeScans, OffsetsBeyond32Bits) { GetParam().run(); }

INSTANTIATE_TEST_SUITE_P(Gpu, HugeScans, ::testing::ValuesIn(cases_that_fit()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace hax_test
#endif
