#include "model/backend.hpp"

#include <cmath>

namespace joint_recall {

AdamwNumbers adamw_numbers(const AdamwArgs& args) {
  const double correction1 = 1.0 - std::pow(args.beta1, static_cast<double>(args.step));
  const double correction2 = 1.0 - std::pow(args.beta2, static_cast<double>(args.step));
  return {static_cast<float>(1.0 - args.lr * args.weight_decay),
          static_cast<float>(args.beta1),
          static_cast<float>(args.beta2),
          static_cast<float>(1.0 - args.beta1),
          static_cast<float>(1.0 - args.beta2),
          static_cast<float>(args.lr / correction1),
          static_cast<float>(std::sqrt(correction2)),
          static_cast<float>(args.eps)};
}

}  // namespace joint_recall
