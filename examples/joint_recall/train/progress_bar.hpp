// One line on the terminal that shows how far a job is. Nothing is shown where stderr is no terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace joint_recall {

class ProgressBar {
 public:
  // The job starts at `done` of `total`. `live`: whether to show anything.
  ProgressBar(std::string label, int64_t total, int64_t done, bool live);
  ProgressBar(std::string label, int64_t total, int64_t done = 0);
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // Redraws a few times a second. `details` stand between the bar and the time left.
  void update(int64_t done, const std::string& details = {});
  void clear();
  bool live() const { return live_; }

 private:
  using Clock = std::chrono::steady_clock;

  std::string label_;
  int64_t total_;
  int64_t first_;
  bool live_;
  bool drawn_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point latest_{};
};

bool stderr_is_terminal();
std::string duration_text(double seconds);  // "0:07", "12:34", "3:25:45"

}  // namespace joint_recall
