#include "support/device_copy.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#ifdef HAX_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace hax_test {
namespace {

thread_local int staying_on_cpu = 0;

bool read_environment() {
  const char* device = std::getenv("HAX_TEST_DEVICE");
  if (!device || std::strcmp(device, "cpu") == 0) return false;
  if (std::strcmp(device, "cuda") != 0) {
    throw std::runtime_error(std::string("HAX_TEST_DEVICE: expected cpu or cuda, got ") + device);
  }
#ifndef HAX_WITH_CUDA
  throw std::runtime_error("HAX_TEST_DEVICE=cuda, but these tests were built without CUDA");
#endif
  return true;
}

#ifdef HAX_WITH_CUDA
// A GPU that stopped working makes every later test meaningless.
void require(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
  }
}
#endif

}  // namespace

bool tests_use_cuda() {
  static const bool use = read_environment();
  return use && staying_on_cpu == 0;
}

StayOnCpu::StayOnCpu() { ++staying_on_cpu; }
StayOnCpu::~StayOnCpu() { --staying_on_cpu; }

#ifdef HAX_WITH_CUDA

DeviceCopy::DeviceCopy(const void* host, size_t bytes) : bytes_(bytes) {
  require(cudaMalloc(&data_, bytes), "cudaMalloc");
  require(cudaMemcpy(data_, host, bytes, cudaMemcpyHostToDevice), "upload");
}

DeviceCopy::~DeviceCopy() { cudaFree(data_); }

void DeviceCopy::download(void* host) const {
  const cudaError_t error = cudaMemcpy(host, data_, bytes_, cudaMemcpyDeviceToHost);
  EXPECT_EQ(error, cudaSuccess) << "download: " << cudaGetErrorString(error);
}

#else

DeviceCopy::DeviceCopy(const void*, size_t bytes) : bytes_(bytes) {}
DeviceCopy::~DeviceCopy() = default;
void DeviceCopy::download(void*) const {}

#endif

}  // namespace hax_test
