// What only CUDA calls promise: they can be captured into a graph and replayed, streams and threads may
// run them at once, and the current device stays what it was.
#ifdef HAX_WITH_CUDA
#include "scan/causal_conv1d_case.hpp"
#include "scan/selective_scan_case.hpp"
#include "scan/ssd_case.hpp"
#include "support/cuda_call.hpp"

namespace hax_test {
namespace {

std::unique_ptr<Call> conv_forward(uint64_t seed) {
  using Args = hax_causal_conv1d_forward_args;
  auto call = std::make_unique<CallOf<Args>>(hax_causal_conv1d_forward_workspace,
                                             hax_causal_conv1d_forward);
  const ConvCase c{.length = 300, .channels = 64, .type = kBf16, .seed = seed};
  const Conv1dArgs values = c.oracle_args();
  call->in(&Args::x, values.x, kBf16);
  call->in(&Args::weight, values.weight, kFp32);
  call->in(&Args::bias, values.bias, kFp32);
  call->in(&Args::initial_state, values.initial_state, kFp32);
  call->out(&Args::y, c.tokens_shape(), kBf16);
  call->out(&Args::final_state, c.state_shape(), kFp32);
  call->args().activation = HAX_ACTIVATION_SILU;
  return call;
}

std::unique_ptr<Call> conv_backward(uint64_t seed) {
  using Args = hax_causal_conv1d_backward_args;
  auto call = std::make_unique<CallOf<Args>>(hax_causal_conv1d_backward_workspace,
                                             hax_causal_conv1d_backward);
  const ConvCase c{.length = 300, .channels = 64, .type = kBf16, .seed = seed};
  const Conv1dArgs values = c.oracle_args();
  call->in(&Args::x, values.x, kBf16);
  call->in(&Args::weight, values.weight, kFp32);
  call->in(&Args::bias, values.bias, kFp32);
  call->in(&Args::dy, c.dy(), kBf16);
  call->out(&Args::dx, c.tokens_shape(), kBf16);
  call->out(&Args::dweight, {c.channels, c.width}, kFp32);
  call->out(&Args::dbias, {c.channels}, kFp32);
  call->out(&Args::dinitial_state, c.state_shape(), kFp32);
  call->args().activation = HAX_ACTIVATION_SILU;
  call->args().deterministic = 1;
  return call;
}

std::unique_ptr<Call> conv_step(uint64_t seed) {
  using Args = hax_causal_conv1d_step_args;
  auto call =
      std::make_unique<CallOf<Args>>(hax_causal_conv1d_step_workspace, hax_causal_conv1d_step);
  call->in(&Args::x, random_normal({3, 2, 40}, seed), kBf16);
  call->in(&Args::weight, random_normal({40, 4}, seed + 1), kFp32);
  call->in(&Args::state, random_normal({8, 3, 40}, seed + 2), kFp32);
  call->in(&Args::src_slots, Array({3}, {1, -1, 2}), kInt32);
  call->in(&Args::dst_slots, Array({3}, {4, -1, 5}), kInt32);
  call->out(&Args::y, {3, 2, 40}, kBf16);
  return call;
}

template <class Args>
void add_scan_inputs(CallOf<Args>& call, const SelectiveScanCase& c) {
  const SelectiveScanArgs a = c.values();
  call.in(&Args::u, a.u, kBf16);
  call.in(&Args::delta, a.delta, kBf16);
  call.in(&Args::A, a.A, kFp32);
  call.in(&Args::B, a.B, kBf16);
  call.in(&Args::C, a.C, kBf16);
  call.in(&Args::D, a.D, kFp32);
  call.in(&Args::z, a.z, kBf16);
  call.in(&Args::delta_bias, a.delta_bias, kFp32);
  call.args().delta_softplus = 1;
}

SelectiveScanCase scan_of(uint64_t seed) {
  return {.length = 150, .channels = 80, .states = 16, .options = {.type = kBf16}, .seed = seed};
}

std::unique_ptr<Call> scan_forward(uint64_t seed) {
  using Args = hax_selective_scan_forward_args;
  auto call = std::make_unique<CallOf<Args>>(hax_selective_scan_forward_workspace,
                                             hax_selective_scan_forward);
  const SelectiveScanCase c = scan_of(seed);
  add_scan_inputs(*call, c);
  call->out(&Args::y, c.tokens_shape(), kBf16);
  call->out(&Args::final_state, c.state_shape(), kFp32);
  return call;
}

std::unique_ptr<Call> scan_backward(uint64_t seed) {
  using Args = hax_selective_scan_backward_args;
  auto call = std::make_unique<CallOf<Args>>(hax_selective_scan_backward_workspace,
                                             hax_selective_scan_backward);
  const SelectiveScanCase c = scan_of(seed);
  const SelectiveScanArgs a = c.values();
  add_scan_inputs(*call, c);
  call->in(&Args::dy, c.dy(), kBf16);
  call->out(&Args::du, c.tokens_shape(), kBf16);
  call->out(&Args::ddelta, c.tokens_shape(), kBf16);
  call->out(&Args::dA, a.A.shape, kFp32);
  call->out(&Args::dB, a.B.shape, kBf16);
  call->out(&Args::dC, a.C.shape, kBf16);
  call->out(&Args::dD, a.D.shape, kFp32);
  call->out(&Args::dz, c.tokens_shape(), kBf16);
  call->out(&Args::ddelta_bias, a.D.shape, kFp32);
  call->args().deterministic = 1;
  return call;
}

std::unique_ptr<Call> scan_step(uint64_t seed) {
  using Args = hax_selective_scan_step_args;
  auto call =
      std::make_unique<CallOf<Args>>(hax_selective_scan_step_workspace, hax_selective_scan_step);
  SelectiveScanCase c = scan_of(seed);
  c.length = 2;
  add_scan_inputs(*call, c);
  call->in(&Args::state, random_normal({6, 80, 16}, seed), kFp32);
  call->in(&Args::src_slots, Array({2}, {1, 2}), kInt32);
  call->in(&Args::dst_slots, Array({2}, {4, 5}), kInt32);
  call->out(&Args::y, c.tokens_shape(), kBf16);
  return call;
}

SsdCase ssd_of(uint64_t seed) {
  return {.length = 300,
          .heads = 6,
          .width = 64,
          .states = 64,
          .options = {.type = kBf16},
          .seed = seed};
}

template <class Args>
void add_ssd_inputs(CallOf<Args>& call, const SsdCase& c) {
  const SsdArgs a = c.values();
  call.in(&Args::x, a.x, kBf16);
  call.in(&Args::dt, a.dt, kFp32);
  call.in(&Args::A, a.A, kFp32);
  call.in(&Args::B, a.B, kBf16);
  call.in(&Args::C, a.C, kBf16);
  call.in(&Args::D, a.D, kFp32);
  call.in(&Args::z, a.z, kBf16);
  call.in(&Args::dt_bias, a.dt_bias, kFp32);
}

// `length` long enough for sequences to be cut, or not.
std::unique_ptr<Call> ssd_forward_of(uint64_t seed, int64_t length) {
  using Args = hax_ssd_forward_args;
  auto call = std::make_unique<CallOf<Args>>(hax_ssd_forward_workspace, hax_ssd_forward);
  SsdCase c = ssd_of(seed);
  c.length = length;
  if (length > 1000) c.heads = 2, c.width = c.states = 8;
  add_ssd_inputs(*call, c);
  call->in(&Args::initial_state, c.values().initial_state, kFp32);
  call->out(&Args::y, c.tokens_shape(), kBf16);
  call->out(&Args::final_state, c.state_shape(), kFp32);
  return call;
}
std::unique_ptr<Call> ssd_forward(uint64_t seed) { return ssd_forward_of(seed, 300); }
std::unique_ptr<Call> ssd_forward_long(uint64_t seed) { return ssd_forward_of(seed, 6000); }

std::unique_ptr<Call> ssd_backward(uint64_t seed) {
  using Args = hax_ssd_backward_args;
  auto call = std::make_unique<CallOf<Args>>(hax_ssd_backward_workspace, hax_ssd_backward);
  const SsdCase c = ssd_of(seed);
  const SsdArgs a = c.values();
  add_ssd_inputs(*call, c);
  call->in(&Args::initial_state, a.initial_state, kFp32);
  call->in(&Args::dy, c.dy(), kBf16);
  call->out(&Args::dx, c.tokens_shape(), kBf16);
  call->out(&Args::ddt, a.dt.shape, kFp32);
  call->out(&Args::dA, a.A.shape, kFp32);
  call->out(&Args::dB, a.B.shape, kBf16);
  call->out(&Args::dC, a.B.shape, kBf16);
  call->out(&Args::dD, a.D.shape, kFp32);
  call->out(&Args::dz, c.tokens_shape(), kBf16);
  call->out(&Args::ddt_bias, a.A.shape, kFp32);
  call->out(&Args::dinitial_state, c.state_shape(), kFp32);
  call->args().deterministic = 1;
  return call;
}

std::unique_ptr<Call> ssd_step(uint64_t seed) {
  using Args = hax_ssd_step_args;
  auto call = std::make_unique<CallOf<Args>>(hax_ssd_step_workspace, hax_ssd_step);
  SsdCase c = ssd_of(seed);
  c.length = 2;
  add_ssd_inputs(*call, c);
  call->in(&Args::state, random_normal({6, c.heads, c.width, c.states}, seed), kFp32);
  call->in(&Args::src_slots, Array({2}, {1, 2}), kInt32);
  call->in(&Args::dst_slots, Array({2}, {4, 5}), kInt32);
  call->out(&Args::y, c.tokens_shape(), kBf16);
  return call;
}

const MakeCall kCalls[] = {conv_forward,  conv_backward, conv_step,   scan_forward,
                           scan_backward, scan_step,     ssd_forward, ssd_forward_long,
                           ssd_backward,  ssd_step};

TEST_F(CudaCalls, CapturedIntoAGraphAndReplayed) {
  for (const MakeCall& make : kCalls) expect_graph_replays(make);
}

TEST_F(CudaCalls, ManyStreamsAndThreadsAtOnce) {
  for (const MakeCall& make : kCalls) expect_streams_and_threads(make);
}

TEST_F(CudaCalls, AFailedLaunchIsReportedAndLeavesNothingBehind) {
  const auto call = conv_forward(1);
  cudaStream_t stream;
  expect_cuda(cudaStreamCreate(&stream));
  ASSERT_EQ(call->enqueue(stream), HAX_SUCCESS) << hax_last_error();
  expect_cuda(cudaStreamSynchronize(stream));
  int before = -1, after = -1;
  expect_cuda(cudaGetDevice(&before));
  using Args = hax_causal_conv1d_forward_args;
  const Args args = static_cast<CallOf<Args>&>(*call).args();
  hax_tensor elsewhere[7];
  Args wrong = args;
  size_t count = 0;
  for (const hax_tensor* Args::*field :
       {&Args::x, &Args::weight, &Args::bias, &Args::initial_state, &Args::y, &Args::final_state}) {
    elsewhere[count] = *(args.*field);
    elsewhere[count].device.index = 77;
    wrong.*field = &elsewhere[count++];
  }
  const TestContext context;
  EXPECT_EQ(hax_causal_conv1d_forward(context, &wrong, nullptr, 0, nullptr), HAX_ERROR_CUDA);
  EXPECT_NE(std::string(hax_last_error()).find("cudaErrorInvalidDevice"), std::string::npos)
      << hax_last_error();
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  expect_cuda(cudaGetDevice(&after));
  EXPECT_EQ(before, after);
  expect_cuda(cudaStreamDestroy(stream));
}

}  // namespace
}  // namespace hax_test
#endif
