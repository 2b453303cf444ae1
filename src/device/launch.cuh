// Kernel launches on a tensor's device and stream, each of them checked. For .cu files.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "core/error.hpp"
#include "hax/tensor.h"

namespace hax::device {

inline void check(cudaError_t error, const char* function, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the caller's next check does not find it
  fail(HAX_ERROR_CUDA, function, ": ", what, ": ", cudaGetErrorName(error), ": ",
       cudaGetErrorString(error));
}

// Launches the kernels of one call. The device of the tensors is current as long as this lives.
class Launcher {
 public:
  Launcher(hax_device device, void* stream, const char* function)
      : function_(function), stream_(static_cast<cudaStream_t>(stream)), device_(device.index) {
    check(cudaGetDevice(&former_), function_, "cudaGetDevice");
    if (former_ != device_) check(cudaSetDevice(device_), function_, "cudaSetDevice");
  }
  ~Launcher() {
    if (former_ != device_) cudaSetDevice(former_);
  }
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;

  // Bytes of shared memory that a block may have.
  size_t shared_memory() const {
    return static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  }

  int processors() const { return attribute(cudaDevAttrMultiProcessorCount); }

  // Whether the device has products by warpgroups and this build code for them.
  bool warpgroup_products() const {
#ifdef HAX_CUDA_SM90A
    return attribute(cudaDevAttrComputeCapabilityMajor) == 9;
#else
    return false;
#endif
  }

  // kernel<<<blocks, threads, shared_bytes, stream>>>(args...); nothing where there are no blocks.
  template <class... Parameters, class... Args>
  void operator()(void (*kernel)(Parameters...), int64_t blocks, dim3 threads, size_t shared_bytes,
                  const Args&... args) const {
    launch(kernel, blocks, threads, shared_bytes, false, args...);
  }

  // The same for a kernel that calls wait_for_previous() before it touches memory: it may start while the one
  // before in the stream ends.
  template <class... Parameters, class... Args>
  void early(void (*kernel)(Parameters...), int64_t blocks, dim3 threads, size_t shared_bytes,
             const Args&... args) const {
    launch(kernel, blocks, threads, shared_bytes, attribute(cudaDevAttrComputeCapabilityMajor) >= 9,
           args...);
  }

 private:
  template <class... Parameters, class... Args>
  void launch(void (*kernel)(Parameters...), int64_t blocks, dim3 threads, size_t shared_bytes,
              bool early, const Args&... args) const {
    if (blocks <= 0) return;
    if (blocks > std::numeric_limits<int32_t>::max()) {
      fail(HAX_ERROR_UNSUPPORTED, function_, ": the tensors are too large: they would need ",
           blocks, " thread blocks, more than the 2147483647 of one launch");
    }
    // 48 KiB go without asking, what the kernel declares by itself included.
    constexpr size_t kSharedByDefault = 32 * 1024;
    if (shared_bytes > kSharedByDefault) {
      check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes)),
            function_, "shared memory of a kernel");
    }
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = threads;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream_;
    config.attrs = &overlap;
    config.numAttrs = early ? 1 : 0;
    check(cudaLaunchKernelEx(&config, kernel, Parameters(args)...), function_, "launch");
  }

  int attribute(cudaDeviceAttr name) const {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, name, device_), function_, "cudaDeviceGetAttribute");
    return value;
  }

  const char* function_;
  cudaStream_t stream_;
  int device_;
  int former_ = 0;
};

}  // namespace hax::device
