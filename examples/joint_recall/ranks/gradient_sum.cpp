#include "ranks/gradient_sum.hpp"

namespace joint_recall {

GradientSum make_gradient_sum(const Ranks& ranks, const Backend& backend) {
  if (!ranks.started_as_rank()) return {};
#ifdef JOINT_RECALL_WITH_CUDA
  if (backend.device().type == HAX_DEVICE_CUDA) return make_nccl_sum(ranks, backend.stream());
#endif
  static_cast<void>(backend);
  return [&ranks](float* gradient, int64_t count) {
    ranks.sum(std::span(gradient, static_cast<size_t>(count)));
  };
}

}  // namespace joint_recall
