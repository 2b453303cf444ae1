// The picture of a training run: loss and accuracy over the steps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/metrics_log.hpp"

namespace joint_recall {

struct CurvesInfo {
  std::string title;
  double chance = 0.0;  // accuracy of guessing
  int64_t warmup_step = 0;
  int64_t best_step = 0;  // 0: none
  double best_accuracy = 0.0;
};

std::string curves_svg(const std::vector<MetricsRecord>& records, const CurvesInfo& info);

}  // namespace joint_recall
