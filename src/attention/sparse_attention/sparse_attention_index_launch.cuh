#pragma once

#include "attention/sparse_attention/sparse_attention.hpp"
#include "device/launch.cuh"

namespace hax::sparse_attention {

// Fills the indices that were planned.
void prepare_cuda_indices(const Problem&, const CudaIndices&, const device::Launcher&);
// The same for forward, with its lists and shortcuts.
void prepare_cuda_forward(const ForwardParams&, const CudaForwardPlan&, const device::Launcher&);

}  // namespace hax::sparse_attention
