// Owned memory behind hax_tensor arguments: element types, odd layouts, poison in what a call has to
// write, and sentinels around every element so that a write beside the tensor is seen.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "array.hpp"
#include "device_copy.hpp"
#include "hax/hax.h"

namespace hax_test {

inline constexpr hax_data_type kFp32 = HAX_FP32;
inline constexpr hax_data_type kFp16 = HAX_FP16;
inline constexpr hax_data_type kBf16 = HAX_BF16;
inline constexpr hax_data_type kInt32 = HAX_INT32;
inline constexpr hax_data_type kInt64 = HAX_INT64;

std::string name_of(hax_data_type type);

// The value that a rounded to `type` stands for; round to nearest, ties to even.
double round_to(double value, hax_data_type type);
Array round_to(const Array& values, hax_data_type type);

// Where the elements lie.
enum class Layout {
  compact,        // row-major, strides given
  null_strides,   // row-major, strides NULL
  padded_rows,    // last axis contiguous, rows a few elements apart, byte_offset not 0
  strided_last,   // last axis with stride 2
  channel_major,  // last axis outermost, as mamba-ssm's (B, D, L)
};
inline constexpr Layout kLayouts[] = {Layout::compact, Layout::null_strides, Layout::padded_rows,
                                      Layout::strided_last, Layout::channel_major};
const char* name_of(Layout layout);

// A tensor argument. Default-constructed it is absent: arg() is NULL.
class Argument {
 public:
  Argument() = default;

  // Holds `values` rounded to `type`; absent if `values` is absent.
  static Argument input(const Array& values, hax_data_type type = kFp32,
                        Layout layout = Layout::compact);
  static Argument indices(const std::vector<int64_t>& values, hax_data_type type = kInt32);

  // Filled with poison: NaN, or -1431655766 (0xAA...) for integers.
  static Argument output(const std::vector<int64_t>& shape, hax_data_type type = kFp32,
                         Layout layout = Layout::compact);

  const hax_tensor* arg() const { return state_ ? &state_->tensor : nullptr; }
  hax_tensor* descriptor() { return state_ ? &state_->tensor : nullptr; }
  bool present() const { return state_ != nullptr; }

  // Elements as doubles.
  Array array() const;
  // Elements as integers, flat in row-major order; for int32 and int64 only.
  std::vector<int64_t> integers() const;
  // Every byte that belongs to no element is as it was made.
  ::testing::AssertionResult sentinels_intact() const;
  // No element was written since output().
  bool untouched() const;

  struct State {
    State();
    ~State();
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    std::vector<unsigned char> bytes;
    std::vector<unsigned char> original;
    std::vector<int64_t> shape;
    std::vector<int64_t> strides;
    std::vector<bool> is_element;  // per byte
    hax_tensor tensor = {};
  };

 private:
  static Argument make(const std::vector<int64_t>& shape, hax_data_type type, Layout layout);
  int64_t byte_of(int64_t flat) const;

  std::shared_ptr<State> state_;  // shared so that copies of an Argument name one tensor
};

// A context with its lifetime. threads 0: the default. cpu_level NULL: the best.
class TestContext {
 public:
  explicit TestContext(int threads = 0, const char* cpu_level = nullptr);
  ~TestContext() { hax_context_destroy(context_); }
  TestContext(const TestContext&) = delete;
  TestContext& operator=(const TestContext&) = delete;
  operator const hax_context*() const { return context_; }

 private:
  hax_context* context_ = nullptr;
};

// Names of the CPU levels that this build has and this machine can run; one of them where tests run on a GPU,
// which no level changes.
std::vector<std::string> available_cpu_levels();

// Scratch of exactly the size asked for, poisoned, with a guard behind it; on the GPU where tests run there.
class Scratch {
 public:
  explicit Scratch(size_t bytes);
  void* data() const { return device_ ? device_->data() : data_; }
  size_t size() const { return bytes_; }
  ::testing::AssertionResult guard_intact() const;

 private:
  std::vector<unsigned char> memory_;
  unsigned char* data_;
  size_t bytes_;
  std::unique_ptr<DeviceCopy> device_;
};

// Moves every live Argument to the GPU, where tests run there, and back with what was written.
class OnTestDevice {
 public:
  OnTestDevice();
  ~OnTestDevice();
  OnTestDevice(const OnTestDevice&) = delete;
  OnTestDevice& operator=(const OnTestDevice&) = delete;

 private:
  struct Moved {
    Argument::State* state;
    std::unique_ptr<DeviceCopy> copy;
  };
  std::vector<Moved> moved_;
};

// Queries the workspace, runs the operator in exactly that much of it and answers its status. Waits for it
// where tests run on a GPU. struct_size: as the caller's version of the struct has it.
template <class Args>
hax_status run(hax_status (*query)(const hax_context*, const Args*, size_t*),
               hax_status (*call)(const hax_context*, const Args*, void*, size_t, void*),
               const hax_context* context, Args args, size_t struct_size = sizeof(Args)) {
  args.struct_size = struct_size;
  const OnTestDevice moved;
  size_t bytes = 0;
  if (const hax_status status = query(context, &args, &bytes); status != HAX_SUCCESS) return status;
  const Scratch scratch(bytes);
  const hax_status status = call(context, &args, scratch.data(), scratch.size(), nullptr);
  EXPECT_TRUE(scratch.guard_intact());
  return status;
}

// For the common case: HAX_RUN(ssd_forward, context, args) expects success.
#define HAX_RUN(operation, context, args)                                                 \
  ASSERT_EQ(::hax_test::run(hax_##operation##_workspace, hax_##operation, context, args), \
            HAX_SUCCESS)                                                                  \
      << hax_last_error()

}  // namespace hax_test
