#include <dlpack/dlpack.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <thread>

#include "hax/hax.h"

extern "C" int hax_test_convolve_from_c(void);

namespace {

TEST(Header, CompilesAsStrictCAndACallFromCWorks) { EXPECT_EQ(hax_test_convolve_from_c(), 0); }

TEST(Status, EveryCodeHasItsNumberNameAndSentence) {
  const struct {
    hax_status status;
    int number;
    const char* name;
  } rows[] = {
      {HAX_SUCCESS, 0, "HAX_SUCCESS"},
      {HAX_ERROR_INVALID_ARGUMENT, 1, "HAX_ERROR_INVALID_ARGUMENT"},
      {HAX_ERROR_UNSUPPORTED, 2, "HAX_ERROR_UNSUPPORTED"},
      {HAX_ERROR_WORKSPACE_TOO_SMALL, 3, "HAX_ERROR_WORKSPACE_TOO_SMALL"},
      {HAX_ERROR_OUT_OF_MEMORY, 4, "HAX_ERROR_OUT_OF_MEMORY"},
      {HAX_ERROR_CUDA, 5, "HAX_ERROR_CUDA"},
      {HAX_ERROR_INTERNAL, 6, "HAX_ERROR_INTERNAL"},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(row.status, row.number);
    EXPECT_STREQ(hax_status_name(row.status), row.name);
    EXPECT_GT(std::string(hax_status_description(row.status)).size(), 10u);
  }
  EXPECT_STREQ(hax_status_name(static_cast<hax_status>(7)), "unknown hax_status");
  EXPECT_STREQ(hax_status_description(static_cast<hax_status>(7)), "The number is no hax_status.");
}

TEST(Version, HeaderAndLibraryAgree) {
  EXPECT_EQ(hax_version(), HAX_VERSION);
  EXPECT_EQ(std::string(hax_version_string()), std::to_string(HAX_VERSION_MAJOR) + "." +
                                                   std::to_string(HAX_VERSION_MINOR) + "." +
                                                   std::to_string(HAX_VERSION_PATCH));
}

TEST(Tensor, LayoutIsDlpacks) {
  EXPECT_EQ(sizeof(hax_tensor), sizeof(DLTensor));
  EXPECT_EQ(alignof(hax_tensor), alignof(DLTensor));
  EXPECT_EQ(offsetof(hax_tensor, data), offsetof(DLTensor, data));
  EXPECT_EQ(offsetof(hax_tensor, device), offsetof(DLTensor, device));
  EXPECT_EQ(offsetof(hax_tensor, ndim), offsetof(DLTensor, ndim));
  EXPECT_EQ(offsetof(hax_tensor, dtype), offsetof(DLTensor, dtype));
  EXPECT_EQ(offsetof(hax_tensor, shape), offsetof(DLTensor, shape));
  EXPECT_EQ(offsetof(hax_tensor, strides), offsetof(DLTensor, strides));
  EXPECT_EQ(offsetof(hax_tensor, byte_offset), offsetof(DLTensor, byte_offset));
  EXPECT_EQ(sizeof(hax_device), sizeof(DLDevice));
  EXPECT_EQ(offsetof(hax_device, type), offsetof(DLDevice, device_type));
  EXPECT_EQ(offsetof(hax_device, index), offsetof(DLDevice, device_id));
  EXPECT_EQ(sizeof(hax_data_type), sizeof(DLDataType));
  EXPECT_EQ(offsetof(hax_data_type, code), offsetof(DLDataType, code));
  EXPECT_EQ(offsetof(hax_data_type, bits), offsetof(DLDataType, bits));
  EXPECT_EQ(offsetof(hax_data_type, lanes), offsetof(DLDataType, lanes));
  EXPECT_EQ(HAX_DEVICE_CPU, kDLCPU);
  EXPECT_EQ(HAX_DEVICE_CUDA, kDLCUDA);
  EXPECT_EQ(HAX_TYPE_INT, kDLInt);
  EXPECT_EQ(HAX_TYPE_UINT, kDLUInt);
  EXPECT_EQ(HAX_TYPE_FLOAT, kDLFloat);
  EXPECT_EQ(HAX_TYPE_BFLOAT, kDLBfloat);
}

hax_status create(int threads, const char* level, size_t struct_size, hax_context** context) {
  hax_context_options options = {};
  options.struct_size = struct_size;
  options.num_threads = threads;
  options.cpu_level = level;
  return hax_context_create(&options, context);
}

TEST(Context, DefaultsAndOptions) {
  hax_context* context = nullptr;
  EXPECT_EQ(hax_context_create(nullptr, &context), HAX_SUCCESS);
  EXPECT_NE(context, nullptr);
  hax_context_destroy(context);
  EXPECT_EQ(create(3, nullptr, sizeof(hax_context_options), &context), HAX_SUCCESS);
  hax_context_destroy(context);
  hax_context_destroy(nullptr);
}

TEST(Context, BadOptionsAreNamed) {
  hax_context* context = nullptr;
  constexpr size_t size = sizeof(hax_context_options);
  EXPECT_EQ(hax_context_create(nullptr, nullptr), HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_STREQ(hax_last_error(), "hax_context_create: context: expected a pointer, got NULL");
  EXPECT_EQ(create(-1, nullptr, size, &context), HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_STREQ(hax_last_error(), "hax_context_create: num_threads: expected at least 0, got -1");
  EXPECT_EQ(create(0, "sse9", size, &context), HAX_ERROR_UNSUPPORTED);
  EXPECT_NE(std::string(hax_last_error()).find("cpu_level: expected one of \""), std::string::npos);
  EXPECT_EQ(create(0, nullptr, 0, &context), HAX_ERROR_INVALID_ARGUMENT);
  EXPECT_NE(std::string(hax_last_error()).find("options->struct_size: expected at least"),
            std::string::npos);
  EXPECT_EQ(context, nullptr);
}

TEST(LastError, BelongsToTheThread) {
  hax_context* context = nullptr;
  EXPECT_EQ(create(-1, nullptr, sizeof(hax_context_options), &context), HAX_ERROR_INVALID_ARGUMENT);
  const std::string here = hax_last_error();
  std::thread([] { EXPECT_STREQ(hax_last_error(), ""); }).join();
  EXPECT_EQ(hax_last_error(), here);
}

}  // namespace
