#include "train/plot_axis.hpp"

#include <fmt/format.h>

#include <cmath>

#include "train/report.hpp"

namespace joint_recall {

std::vector<double> round_ticks(double low, double high, int count) {
  if (!(high > low) || count < 1) return {low};
  const double rough = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = power;
  for (const double factor : {2.0, 5.0, 10.0}) {
    // The nearest by ratio is taken.
    if (factor * power * step < rough * rough) step = factor * power;
  }
  std::vector<double> ticks;
  for (auto i = static_cast<long>(std::ceil(low / step - 1e-9));
       static_cast<double>(i) * step <= high + 1e-9 * step; ++i) {
    ticks.push_back(static_cast<double>(i) * step);
  }
  return ticks;
}

std::string tick_text(double value) {
  if (std::abs(value) < 10000.0 || value != std::floor(value)) return fmt::format("{:.6g}", value);
  return grouped(static_cast<int64_t>(value));
}

}  // namespace joint_recall
