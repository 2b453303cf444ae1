// Launches of ssd that have files of their own.
#pragma once

#include "device/launch.cuh"
#include "scan/ssd/ssd.hpp"

namespace hax::ssd {

// The kernels of the forward of fp16 or bf16 activations, as the plan names them.
template <class T>
void launch_spans(const device::Launcher&, const ForwardParams&, const CudaForwardPlan&);
template <class T>
void launch_warpgroups(const device::Launcher&, const ForwardParams&, const CudaForwardPlan&);
template <class T>
void launch_chunks(const device::Launcher&, const ForwardParams&, const CudaForwardPlan&);

}  // namespace hax::ssd
