// Launches of ssd that have files of their own.
#pragma once

#include "device/launch.cuh"
#include "scan/ssd/ssd.hpp"

namespace hax::ssd {

// Forward of activations of fp16 or bf16.
template <class T>
void launch_forward(const device::Launcher&, const ForwardParams&, const CudaForwardPlan&);

void clear_flags(const device::Launcher&, int* flags, int64_t count);

}  // namespace hax::ssd
