// One axis of a plot: which numbers it shows, and where they lie.
#pragma once

#include <string>
#include <vector>

namespace joint_recall {

struct Axis {
  double low = 0.0, high = 1.0;    // numbers at its ends
  double first = 0.0, last = 1.0;  // pixels at its ends

  double at(double value) const { return first + (value - low) / (high - low) * (last - first); }
};

// About `count` round numbers that divide [low, high]; every one lies inside.
std::vector<double> round_ticks(double low, double high, int count);
std::string tick_text(double value);  // "0.5", "12,000"

}  // namespace joint_recall
