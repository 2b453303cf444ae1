// What every operator rejects alike, shown on causal_conv1d: the messages name the argument, what was
// expected and what came, and nothing is written.
#include <cstring>
#include <functional>
#include <string>

#include "support/tensor_builder.hpp"

namespace hax_test {
namespace {

// A valid call that uses every argument, for a test to break in one place.
struct Call {
  Argument x = Argument::input(random_normal({1, 6, 5}, 1));
  Argument weight = Argument::input(random_normal({5, 4}, 2));
  Argument bias = Argument::input(random_normal({5}, 3));
  Argument cu_seqlens = Argument::indices({0, 2, 6});
  Argument initial_state = Argument::input(random_normal({2, 3, 5}, 4));
  Argument y = Argument::output({1, 6, 5});
  Argument final_state = Argument::output({2, 3, 5});
  hax_causal_conv1d_forward_args args = {};
  TestContext context;

  Call() {
    args.struct_size = sizeof(args);
    args.x = x.arg();
    args.weight = weight.arg();
    args.bias = bias.arg();
    args.cu_seqlens = cu_seqlens.arg();
    args.initial_state = initial_state.arg();
    args.y = y.arg();
    args.final_state = final_state.arg();
    args.activation = HAX_ACTIVATION_SILU;
  }
  hax_status query() {
    size_t bytes = 0;
    return hax_causal_conv1d_forward_workspace(context, &args, &bytes);
  }
  hax_status run() { return hax_causal_conv1d_forward(context, &args, nullptr, 0, nullptr); }
};

void expect_rejected(Call& call, hax_status status, const std::string& text) {
  EXPECT_EQ(call.run(), status);
  EXPECT_EQ(hax_last_error(), "hax_causal_conv1d_forward: " + text);
  EXPECT_TRUE(call.y.untouched() && call.final_state.untouched());
}

TEST(Arguments, TheUnbrokenCallSucceeds) {
  Call call;
  EXPECT_EQ(call.query(), HAX_SUCCESS);
  EXPECT_EQ(call.run(), HAX_SUCCESS);
}

TEST(Arguments, RejectedByQueryAndCallAlike) {
  int64_t six[] = {6, 6, 6, 6, 6, 6};
  int64_t negative[] = {1, -6, 5};
  int64_t zero_stride[] = {30, 0, 1};
  int64_t huge[] = {int64_t{1} << 40, int64_t{1} << 30, 5};
  const struct {
    std::function<void(Call&)> spoil;
    hax_status status;
    std::string text;
  } rows[] = {
      {[](Call& c) { c.args.x = nullptr; }, HAX_ERROR_INVALID_ARGUMENT,
       "x: expected a tensor, got NULL"},
      {[](Call& c) { c.x.descriptor()->ndim = 2; }, HAX_ERROR_INVALID_ARGUMENT,
       "x: expected 3 axes (B, L, D), got ndim 2"},
      {[](Call& c) { c.x.descriptor()->shape = nullptr; }, HAX_ERROR_INVALID_ARGUMENT,
       "x: shape: expected 3 lengths, got NULL"},
      {[&](Call& c) { c.x.descriptor()->shape = negative; }, HAX_ERROR_INVALID_ARGUMENT,
       "x: expected shape (B, L, D), got (1, -6, 5)"},
      {[&](Call& c) { c.x.descriptor()->shape = huge; }, HAX_ERROR_INVALID_ARGUMENT,
       "x: expected at most 576460752303423487 elements, got shape (1099511627776, 1073741824, 5)"},
      {[&](Call& c) { c.bias.descriptor()->shape = six; }, HAX_ERROR_INVALID_ARGUMENT,
       "bias: expected shape (D=5), got (6)"},
      {[](Call& c) { c.bias.descriptor()->dtype = kBf16; }, HAX_ERROR_UNSUPPORTED,
       "bias: expected fp32, got bf16"},
      {[](Call& c) { c.y.descriptor()->dtype = kFp16; }, HAX_ERROR_UNSUPPORTED,
       "y: expected fp32 (the type of x), got fp16"},
      {[](Call& c) { c.x.descriptor()->dtype = kInt32; }, HAX_ERROR_UNSUPPORTED,
       "x: expected fp32, fp16 or bf16, got int32"},
      {[](Call& c) {
         c.x.descriptor()->dtype = {HAX_TYPE_FLOAT, 64, 1};
       },
       HAX_ERROR_UNSUPPORTED,
       "x: expected fp32, fp16 or bf16, got dtype (code 2, bits 64, lanes 1)"},
      {[](Call& c) { c.x.descriptor()->dtype.lanes = 4; }, HAX_ERROR_UNSUPPORTED,
       "x: expected fp32, fp16 or bf16, got dtype (code 2, bits 32, lanes 4)"},
      {[](Call& c) { c.weight.descriptor()->dtype = kBf16; }, HAX_ERROR_UNSUPPORTED,
       "weight: expected fp32 (the type of x) or fp32, got bf16"},
      {[](Call& c) { c.cu_seqlens.descriptor()->dtype = kFp32; }, HAX_ERROR_UNSUPPORTED,
       "cu_seqlens: expected int32 or int64, got fp32"},
      {[&](Call& c) { c.y.descriptor()->strides = zero_stride; }, HAX_ERROR_INVALID_ARGUMENT,
       "y: strides: axis 1 of an output has stride 0, so several elements would share one address"},
      {[](Call& c) {
         c.weight.descriptor()->device = {HAX_DEVICE_CUDA, 1};
       },
       HAX_ERROR_INVALID_ARGUMENT,
       "weight: expected the device of x (type 1, index 0), got type 2, index 1"},
      {[](Call& c) {
         c.x.descriptor()->device = {7, 0};
       },
       HAX_ERROR_UNSUPPORTED, "x: expected device type 1 (CPU) or 2 (CUDA), got 7"},
      {[](Call& c) { c.args.activation = 2; }, HAX_ERROR_UNSUPPORTED,
       "activation: expected HAX_ACTIVATION_NONE (0) or HAX_ACTIVATION_SILU (1), got 2"},
      {[](Call& c) {
         c.weight = Argument::input(zeros({5, 9})), c.args.weight = c.weight.arg();
       },
       HAX_ERROR_UNSUPPORTED, "W: expected 2 to 8, got 9"},
      {[](Call& c) {
         c.x = Argument::input(zeros({2, 6, 5})), c.args.x = c.x.arg(),
         c.y = Argument::output({2, 6, 5}), c.args.y = c.y.arg();
       },
       HAX_ERROR_INVALID_ARGUMENT, "cu_seqlens: expected B=1 beside it, got 2"},
      {[](Call& c) { c.args.struct_size = 8; }, HAX_ERROR_INVALID_ARGUMENT,
       "args->struct_size: expected at least " +
           std::to_string(sizeof(hax_causal_conv1d_forward_args)) + ", got 8"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.text);
    Call call;
    row.spoil(call);
    EXPECT_EQ(call.query(), row.status);
    EXPECT_EQ(hax_last_error(), "hax_causal_conv1d_forward: " + row.text);
    expect_rejected(call, row.status, row.text);
  }
}

TEST(Arguments, ContentIsCheckedInTheCallOnly) {
  const struct {
    std::vector<int64_t> boundaries;
    std::string text;
  } rows[] = {
      {{1, 2, 6}, "cu_seqlens[0]: expected 0, got 1"},
      {{0, 2, 5}, "cu_seqlens[2]: expected L=6, got 5"},
      {{0, 7, 6}, "cu_seqlens[2]: expected at least 7 as in the element before, got 6"},
      {{0, -1, 6}, "cu_seqlens[1]: expected at least 0 as in the element before, got -1"},
  };
  for (const auto& row : rows) {
    Call call;
    call.cu_seqlens = Argument::indices(row.boundaries);
    call.args.cu_seqlens = call.cu_seqlens.arg();
    EXPECT_EQ(call.query(), HAX_SUCCESS);
    expect_rejected(call, HAX_ERROR_INVALID_ARGUMENT, row.text);
  }
  Call call;
  call.x.descriptor()->data = nullptr;
  EXPECT_EQ(call.query(), HAX_SUCCESS);
  expect_rejected(call, HAX_ERROR_INVALID_ARGUMENT, "x: data: expected a pointer, got NULL");
  Call odd;
  odd.x.descriptor()->byte_offset += 1;
  EXPECT_EQ(odd.query(), HAX_SUCCESS);
  expect_rejected(odd, HAX_ERROR_INVALID_ARGUMENT,
                  "x: data: expected an address aligned to 4 bytes, got one that isn't");
}

TEST(Arguments, NullContextStructAndResult) {
  Call call;
  size_t bytes = 0;
  EXPECT_EQ(hax_causal_conv1d_forward(nullptr, &call.args, nullptr, 0, nullptr),
            HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_STREQ(hax_last_error(),
               "hax_causal_conv1d_forward: context: expected a context, got NULL");
  EXPECT_EQ(hax_causal_conv1d_forward(call.context, nullptr, nullptr, 0, nullptr),
            HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_STREQ(hax_last_error(), "hax_causal_conv1d_forward: args: expected a struct, got NULL");
  EXPECT_EQ(hax_causal_conv1d_forward_workspace(call.context, &call.args, nullptr),
            HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_STREQ(hax_last_error(), "hax_causal_conv1d_forward: bytes: expected a pointer, got NULL");
  EXPECT_EQ(hax_causal_conv1d_forward_workspace(nullptr, &call.args, &bytes),
            HAX_ERROR_INVALID_ARGUMENT);
}

TEST(Arguments, CudaTensorsWithoutTheirKernelsOrDevice) {
  Call call;
  for (Argument* argument : {&call.x, &call.weight, &call.bias, &call.cu_seqlens,
                             &call.initial_state, &call.y, &call.final_state}) {
    argument->descriptor()->device = {HAX_DEVICE_CUDA, 333};
  }
  if (hax_has_cuda()) {
    EXPECT_EQ(call.query(), HAX_SUCCESS) << hax_last_error();
    EXPECT_EQ(call.run(), HAX_ERROR_CUDA);
    EXPECT_NE(std::string(hax_last_error()).find("hax_causal_conv1d_forward: cuda"),
              std::string::npos)
        << hax_last_error();
    return;
  }
  EXPECT_EQ(call.query(), HAX_ERROR_UNSUPPORTED);
  expect_rejected(
      call, HAX_ERROR_UNSUPPORTED,
      "expected CPU tensors, got tensors on CUDA device 333: this build of hax has no CUDA "
      "kernels for it");
}

TEST(Arguments, AStreamWithCpuTensorsIsAnError) {
  Call call;
  int stream = 0;
  EXPECT_EQ(hax_causal_conv1d_forward(call.context, &call.args, nullptr, 0, &stream),
            HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_STREQ(hax_last_error(),
               "hax_causal_conv1d_forward: stream: expected NULL with CPU tensors, got a stream");
}

TEST(Arguments, LargerStructsOfLaterVersions) {
  Call call;
  unsigned char later[sizeof(call.args) + 16] = {};
  std::memcpy(later, &call.args, sizeof(call.args));
  auto* args = reinterpret_cast<hax_causal_conv1d_forward_args*>(later);
  args->struct_size = sizeof(later);
  EXPECT_EQ(hax_causal_conv1d_forward(call.context, args, nullptr, 0, nullptr), HAX_SUCCESS);
  later[sizeof(later) - 1] = 1;
  EXPECT_EQ(hax_causal_conv1d_forward(call.context, args, nullptr, 0, nullptr),
            HAX_ERROR_UNSUPPORTED);
  EXPECT_NE(std::string(hax_last_error()).find("with fields set beyond them"), std::string::npos);
}

TEST(Arguments, WorkspaceMustBeThereLargeEnoughAndAligned) {
  const TestContext context;
  const Argument x = Argument::input(random_normal({1, 6, 5}, 1));
  const Argument weight = Argument::input(random_normal({5, 4}, 2));
  const Argument dweight = Argument::output({5, 4});
  hax_causal_conv1d_backward_args args = {};
  args.struct_size = sizeof(args);
  args.x = args.dy = x.arg();
  args.weight = weight.arg();
  args.dweight = dweight.arg();
  size_t bytes = 0;
  ASSERT_EQ(hax_causal_conv1d_backward_workspace(context, &args, &bytes), HAX_SUCCESS);
  ASSERT_GT(bytes, 0u);
  const Scratch scratch(bytes + 64);
  const auto call = [&](void* memory, size_t size) {
    return hax_causal_conv1d_backward(context, &args, memory, size, nullptr);
  };
  const std::string name = "hax_causal_conv1d_backward: workspace: expected ";
  EXPECT_EQ(call(nullptr, bytes), HAX_ERROR_WORKSPACE_TOO_SMALL);
  EXPECT_EQ(hax_last_error(),
            name + std::to_string(bytes) + " bytes, got NULL and " + std::to_string(bytes));
  EXPECT_EQ(call(scratch.data(), bytes - 1), HAX_ERROR_WORKSPACE_TOO_SMALL);
  EXPECT_EQ(hax_last_error(),
            name + std::to_string(bytes) + " bytes, got " + std::to_string(bytes - 1));
  EXPECT_EQ(call(static_cast<char*>(scratch.data()) + 4, bytes), HAX_ERROR_WORKSPACE_TOO_SMALL);
  EXPECT_EQ(hax_last_error(), name + "an address aligned to 64 bytes, got one that isn't");
  EXPECT_TRUE(dweight.untouched());
  EXPECT_EQ(call(scratch.data(), bytes), HAX_SUCCESS);
}

}  // namespace
}  // namespace hax_test
