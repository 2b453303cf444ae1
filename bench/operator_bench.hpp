// What the benchmarks share: tensors that own their memory, and the loop that measures an operator.
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "hax/hax.h"

namespace hax_bench {

// A compact CPU tensor. Filled with zeros until told otherwise.
class Values {
 public:
  explicit Values(std::vector<int64_t> shape, hax_data_type type = HAX_FP32)
      : shape_(std::move(shape)) {
    int64_t count = 1;
    for (const int64_t length : shape_) count *= length;
    bytes_.resize(static_cast<size_t>(count * type.bits / 8));
    tensor_.data = bytes_.data();
    tensor_.device = {HAX_DEVICE_CPU, 0};
    tensor_.ndim = static_cast<int32_t>(shape_.size());
    tensor_.dtype = type;
    tensor_.shape = shape_.data();
  }
  // fp32, uniform in [low, high).
  Values(std::vector<int64_t> shape, float low, float high) : Values(std::move(shape)) {
    std::mt19937 engine(1);
    std::uniform_real_distribution<float> uniform(low, high);
    for (size_t i = 0; i < bytes_.size() / sizeof(float); ++i) data<float>()[i] = uniform(engine);
  }
  Values(const Values&) = delete;
  Values& operator=(const Values&) = delete;

  template <class T>
  T* data() {
    return reinterpret_cast<T*>(bytes_.data());
  }
  operator const hax_tensor*() const { return &tensor_; }

 private:
  std::vector<int64_t> shape_;
  std::vector<char> bytes_;
  hax_tensor tensor_ = {};
};

inline void require(hax_status status) {
  if (status == HAX_SUCCESS) return;
  std::fprintf(stderr, "%s\n", hax_last_error());
  std::abort();
}

// Runs an operator on `threads` threads until the benchmark has enough; `items` are done by each call.
template <class Args>
void measure(benchmark::State& state, int threads, int64_t items, Args args,
             hax_status (*query)(const hax_context*, const Args*, size_t*),
             hax_status (*call)(const hax_context*, const Args*, void*, size_t, void*)) {
  hax_context_options options = {};
  options.struct_size = sizeof(options);
  options.num_threads = threads;
  hax_context* context = nullptr;
  require(hax_context_create(&options, &context));
  args.struct_size = sizeof(args);
  size_t bytes = 0;
  require(query(context, &args, &bytes));
  const std::unique_ptr<void, void (*)(void*)> workspace(
      std::aligned_alloc(64, (bytes + 64) / 64 * 64), std::free);
  for (auto _ : state) require(call(context, &args, workspace.get(), bytes, nullptr));
  state.SetItemsProcessed(state.iterations() * items);
  hax_context_destroy(context);
}

}  // namespace hax_bench
