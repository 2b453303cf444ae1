// What only CUDA calls promise: they can be captured into a graph and replayed, streams and threads may
// run them at once, and the current device stays what it was.
#ifdef HAX_WITH_CUDA
#include <cuda_runtime_api.h>

#include <functional>
#include <thread>

#include "scan/causal_conv1d_case.hpp"
#include "scan/selective_scan_case.hpp"
#include "scan/ssd_case.hpp"
#include "support/device_copy.hpp"

namespace hax_test {
namespace {

void expect_cuda(cudaError_t error) { ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error); }

// A tensor in memory of the GPU.
class DeviceTensor {
 public:
  DeviceTensor(const Array& values, hax_data_type type) : host_(Argument::input(values, type)) {
    place();
  }
  DeviceTensor(const std::vector<int64_t>& shape, hax_data_type type)
      : host_(Argument::output(shape, type)) {
    place();
  }

  const hax_tensor* arg() const { return &tensor_; }

  Array array() const {
    const auto& state = *host_.arg();
    copy_->download(state.data);
    return host_.array();
  }
  void poison() const {
    expect_cuda(cudaMemset(static_cast<char*>(copy_->data()) + tensor_.byte_offset, 0xff,
                           static_cast<size_t>(bytes_of(tensor_))));
  }

 private:
  static int64_t bytes_of(const hax_tensor& tensor) {
    int64_t bytes = tensor.dtype.bits / 8;
    for (int32_t axis = 0; axis < tensor.ndim; ++axis) bytes *= tensor.shape[axis];
    return bytes;
  }
  void place() {
    tensor_ = *host_.arg();
    const size_t size = static_cast<size_t>(bytes_of(tensor_)) + 2 * tensor_.byte_offset;
    copy_ = std::make_unique<DeviceCopy>(tensor_.data, size);
    tensor_.data = copy_->data();
    tensor_.device = {HAX_DEVICE_CUDA, 0};
  }

  Argument host_;
  hax_tensor tensor_ = {};
  std::unique_ptr<DeviceCopy> copy_;
};

// A call with tensors of its own that may be made any number of times.
class Call {
 public:
  virtual ~Call() = default;
  virtual hax_status enqueue(cudaStream_t stream) = 0;
  virtual void poison() const = 0;
  virtual std::vector<Array> results() const = 0;
};

template <class Args>
class CallOf : public Call {
 public:
  using Query = hax_status (*)(const hax_context*, const Args*, size_t*);
  using Function = hax_status (*)(const hax_context*, const Args*, void*, size_t, void*);

  CallOf(Query query, Function function) : query_(query), function_(function) {
    args_.struct_size = sizeof(Args);
  }
  void in(const hax_tensor* Args::*field, const Array& values, hax_data_type type) {
    inputs_.push_back(std::make_unique<DeviceTensor>(values, type));
    args_.*field = inputs_.back()->arg();
  }
  void out(const hax_tensor* Args::*field, const std::vector<int64_t>& shape, hax_data_type type) {
    outputs_.push_back(std::make_unique<DeviceTensor>(shape, type));
    args_.*field = outputs_.back()->arg();
  }
  Args& args() { return args_; }

  hax_status enqueue(cudaStream_t stream) override {
    if (!workspace_) {
      size_t bytes = 0;
      if (const hax_status status = query_(context_, &args_, &bytes); status != HAX_SUCCESS) {
        return status;
      }
      const std::vector<unsigned char> poison(bytes + 1, 0xff);
      workspace_bytes_ = bytes;
      workspace_ = std::make_unique<DeviceCopy>(poison.data(), poison.size());
    }
    return function_(context_, &args_, workspace_->data(), workspace_bytes_, stream);
  }
  void poison() const override {
    for (const auto& output : outputs_) output->poison();
  }
  std::vector<Array> results() const override {
    std::vector<Array> arrays;
    for (const auto& output : outputs_) arrays.push_back(output->array());
    return arrays;
  }

 private:
  TestContext context_;
  Query query_;
  Function function_;
  Args args_ = {};
  std::vector<std::unique_ptr<DeviceTensor>> inputs_, outputs_;
  std::unique_ptr<DeviceCopy> workspace_;
  size_t workspace_bytes_ = 0;
};

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

using MakeCall = std::function<std::unique_ptr<Call>(uint64_t seed)>;
const MakeCall kCalls[] = {conv_forward,  conv_backward, conv_step,   scan_forward,
                           scan_backward, scan_step,     ssd_forward, ssd_forward_long,
                           ssd_backward,  ssd_step};

void expect_equal(const std::vector<Array>& got, const std::vector<Array>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(first_mask_mismatch(got[i], want[i]), -1) << "result " << i;
    EXPECT_EQ(difference(got[i], want[i]).worst, -1) << "result " << i;
  }
}

class CudaCalls : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!tests_use_cuda()) GTEST_SKIP() << "needs HAX_TEST_DEVICE=cuda";
  }
};

TEST_F(CudaCalls, CapturedIntoAGraphAndReplayed) {
  cudaStream_t stream;
  expect_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (const MakeCall& make : kCalls) {
    const auto call = make(7);
    ASSERT_EQ(call->enqueue(stream), HAX_SUCCESS) << hax_last_error();
    expect_cuda(cudaStreamSynchronize(stream));
    const std::vector<Array> want = call->results();
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    expect_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    ASSERT_EQ(call->enqueue(stream), HAX_SUCCESS) << hax_last_error();
    expect_cuda(cudaStreamEndCapture(stream, &graph));
    expect_cuda(cudaGraphInstantiate(&executable, graph, 0));
    for (int replay = 0; replay < 3; ++replay) {
      call->poison();
      expect_cuda(cudaDeviceSynchronize());
      expect_cuda(cudaGraphLaunch(executable, stream));
      expect_cuda(cudaStreamSynchronize(stream));
      expect_equal(call->results(), want);
    }
    expect_cuda(cudaGraphExecDestroy(executable));
    expect_cuda(cudaGraphDestroy(graph));
  }
  expect_cuda(cudaStreamDestroy(stream));
}

TEST_F(CudaCalls, ManyStreamsAndThreadsAtOnce) {
  constexpr int kThreads = 4, kRounds = 20;
  for (const MakeCall& make : kCalls) {
    std::vector<std::unique_ptr<Call>> calls;
    std::vector<std::vector<Array>> want;
    for (uint64_t i = 0; i < kThreads; ++i) {
      calls.push_back(make(100 * i + 1));
      ASSERT_EQ(calls.back()->enqueue(nullptr), HAX_SUCCESS) << hax_last_error();
      expect_cuda(cudaDeviceSynchronize());
      want.push_back(calls.back()->results());
      calls.back()->poison();
    }
    expect_cuda(cudaDeviceSynchronize());
    std::vector<std::thread> threads;
    for (const auto& call : calls) {
      threads.emplace_back([&call] {
        cudaStream_t stream;
        expect_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        for (int round = 0; round < kRounds; ++round) {
          EXPECT_EQ(call->enqueue(stream), HAX_SUCCESS) << hax_last_error();
        }
        expect_cuda(cudaStreamSynchronize(stream));
        expect_cuda(cudaStreamDestroy(stream));
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (size_t i = 0; i < calls.size(); ++i) expect_equal(calls[i]->results(), want[i]);
  }
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
