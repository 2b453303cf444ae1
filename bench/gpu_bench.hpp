// Benchmarks on a GPU. A case holds several sets of tensors, more than the L2 cache takes; a CUDA graph calls
// the operator on each set in turn, and the time of a call is that of a replay, between two events, divided
// by the calls. Every row states the bytes, exponentials and arithmetic that the call cannot do without, and the
// share of its roofline reached: the longest of the times that these take at the GPU's rates.
#pragma once

#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hax/hax.h"

namespace gpu_bench {

inline void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

inline bool available() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

// What the GPU at hand can do: bandwidth as a copy reaches it, the other rates as the data sheet has them at the
// clock that the driver reports.
struct Machine {
  double copy_bytes_per_s;
  double exps_per_s;
  double fp32_flops_per_s;
  double tensor_flops_per_s;  // 16-bit, dense
  int64_t l2_bytes;
};
const Machine& machine();

// A compact tensor of random values in GPU memory: normal, or uniform between two bounds.
class Tensor {
 public:
  Tensor(std::vector<int64_t> shape, hax_data_type type, double low = 0.0, double high = 0.0);
  ~Tensor() { cudaFree(data_); }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  const hax_tensor* arg() const { return &tensor_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::vector<int64_t> shape_;
  int64_t bytes_;
  void* data_ = nullptr;
  hax_tensor tensor_;
};

// The tensors of one call and the call itself.
class Call {
 public:
  virtual ~Call() = default;
  virtual hax_status prepare() = 0;
  virtual hax_status enqueue(cudaStream_t stream) = 0;
  int64_t bytes() const { return bytes_; }

 protected:
  int64_t bytes_ = 0;
};

template <class Args>
class CallOf : public Call {
 public:
  using Query = hax_status (*)(const hax_context*, const Args*, size_t*);
  using Function = hax_status (*)(const hax_context*, const Args*, void*, size_t, void*);

  CallOf(Query query, Function function) : query_(query), function_(function) {
    args.struct_size = sizeof(Args);
    hax_context_create(nullptr, &context_);
  }
  ~CallOf() override {
    cudaFree(workspace_);
    hax_context_destroy(context_);
  }

  // Adds a tensor that the call reads or writes once, or reads and writes.
  void tensor(const hax_tensor* Args::*field, std::vector<int64_t> shape, hax_data_type type,
              double low = 0.0, double high = 0.0, int moves = 1) {
    tensors_.push_back(std::make_unique<Tensor>(std::move(shape), type, low, high));
    args.*field = tensors_.back()->arg();
    bytes_ += moves * tensors_.back()->bytes();
  }
  hax_status prepare() override {
    const hax_status status = query_(context_, &args, &workspace_bytes_);
    if (status == HAX_SUCCESS) require(cudaMalloc(&workspace_, workspace_bytes_ + 1), "workspace");
    return status;
  }
  hax_status enqueue(cudaStream_t stream) override {
    return function_(context_, &args, workspace_, workspace_bytes_, stream);
  }

  Args args = {};

 private:
  hax_context* context_ = nullptr;
  Query query_;
  Function function_;
  std::vector<std::unique_ptr<Tensor>> tensors_;
  void* workspace_ = nullptr;
  size_t workspace_bytes_ = 0;
};

using MakeCall = std::function<std::unique_ptr<Call>()>;

// Where a call's arithmetic runs.
enum class Unit { tensor_cores, fp32 };

// exps, flops: exponentials and floating-point operations that the call cannot do without.
void add(const std::string& name, const MakeCall& make, double exps = 0.0, double flops = 0.0,
         Unit unit = Unit::tensor_cores);

}  // namespace gpu_bench
