// Tests on a GPU: with HAX_TEST_DEVICE=cuda in the environment every operator that a test runs gets CUDA
// tensors.
#pragma once

#include <cstddef>

namespace hax_test {

bool tests_use_cuda();

// As long as this lives, operators get CPU tensors all the same: for what only the CPU backend promises.
class StayOnCpu {
 public:
  StayOnCpu();
  ~StayOnCpu();
  StayOnCpu(const StayOnCpu&) = delete;
  StayOnCpu& operator=(const StayOnCpu&) = delete;
};

// Memory on the GPU that starts as a copy of `bytes` bytes of host memory.
class DeviceCopy {
 public:
  DeviceCopy(const void* host, size_t bytes);
  ~DeviceCopy();
  DeviceCopy(const DeviceCopy&) = delete;
  DeviceCopy& operator=(const DeviceCopy&) = delete;

  void* data() const { return data_; }
  // Waits for the GPU.
  void download(void* host) const;

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

}  // namespace hax_test
