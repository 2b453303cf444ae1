// Calls of operators with tensors of their own on a GPU, and what every such call promises: it can be captured
// into a graph and replayed, and streams and threads may run it at once.
#pragma once
#ifdef HAX_WITH_CUDA

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/comparator.hpp"
#include "support/device_copy.hpp"
#include "support/tensor_builder.hpp"

namespace hax_test {

inline void expect_cuda(cudaError_t error) {
  ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
}

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
      // Copies to the device may still be under way, and other streams don't wait for them.
      expect_cuda(cudaDeviceSynchronize());
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

// Makes a call whose tensors follow from the seed.
using MakeCall = std::function<std::unique_ptr<Call>(uint64_t seed)>;

inline void expect_equal(const std::vector<Array>& got, const std::vector<Array>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(first_mask_mismatch(got[i], want[i]), -1) << "result " << i;
    EXPECT_EQ(difference(got[i], want[i]).worst, -1) << "result " << i;
  }
}

inline void expect_graph_replays(const MakeCall& make) {
  cudaStream_t stream;
  expect_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
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
  expect_cuda(cudaStreamDestroy(stream));
}

inline void expect_streams_and_threads(const MakeCall& make) {
  constexpr int kThreads = 4, kRounds = 20;
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

// Tests that make no sense on the CPU.
class CudaCalls : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!tests_use_cuda()) GTEST_SKIP() << "needs HAX_TEST_DEVICE=cuda";
  }
};

}  // namespace hax_test
#endif
