// Sums gradients over the ranks.
#pragma once

#include "model/model.hpp"
#include "ranks/ranks.hpp"

namespace joint_recall {

// Nothing for a process that wasn't started as a rank. On GPUs NCCL does it, on the stream of the
// backend, also where there is one rank. Throws a TrainError where NCCL isn't there.
GradientSum make_gradient_sum(const Ranks& ranks, const Backend& backend);

#ifdef JOINT_RECALL_WITH_CUDA
GradientSum make_nccl_sum(const Ranks& ranks, void* stream);
#endif

}  // namespace joint_recall
