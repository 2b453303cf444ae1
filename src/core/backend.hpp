// Which backend serves a call.
#pragma once

#include "core/error.hpp"
#include "hax/tensor.h"

namespace hax {

#ifdef HAX_WITH_CUDA
inline constexpr bool kWithCuda = true;
#else
inline constexpr bool kWithCuda = false;
#endif

// For operators whose only backend is the CPU.
inline void require_cpu(hax_device device, const char* function) {
  if (device.type == HAX_DEVICE_CPU) return;
  fail(HAX_ERROR_UNSUPPORTED, function, ": expected CPU tensors, got tensors on CUDA device ",
       device.index, ": this build of hax has no CUDA kernels for it");
}

// For operators with both backends: whether the CUDA one serves the call.
inline bool use_cuda(hax_device device, const char* function) {
  if (device.type == HAX_DEVICE_CPU) return false;
  if (!kWithCuda) require_cpu(device, function);
  return true;
}

}  // namespace hax
