// What plan and launch of ssd's CUDA kernels share.
#pragma once

#include "core/tensor.hpp"

namespace hax::ssd {

struct CudaForwardPlan {};

}  // namespace hax::ssd
