// Which backend serves a call.
#pragma once

#include "core/error.hpp"
#include "hax/tensor.h"

namespace hax {

// For operators whose only backend is the CPU.
inline void require_cpu(hax_device device, const char* function) {
  if (device.type == HAX_DEVICE_CPU) return;
  fail(HAX_ERROR_UNSUPPORTED, function, ": expected CPU tensors, got tensors on CUDA device ",
       device.index, ": this build of hax has no CUDA kernels for it");
}

}  // namespace hax
