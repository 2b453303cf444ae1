// One cell being run.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "sweep/cell_result.hpp"
#include "sweep/child.hpp"

namespace joint_recall {

class CellRun {
 public:
  // Starts the cell, or goes on after its last checkpoint.
  CellRun(const std::filesystem::path& sweep_folder, CellResult result, const std::string& data_dir,
          const std::string& device, const std::string& device_name, int64_t cells_per_gpu);

  // Looks at the process and, now and then, notes how far it is. True once it has ended; result() then
  // says how.
  bool poll();
  void ask_to_stop();

  const CellResult& result() const { return result_; }
  const std::string& device() const { return device_; }
  std::string latest_line() const;  // of its log

 private:
  using Clock = std::chrono::steady_clock;

  void note_progress();
  void note_end(int code);

  std::filesystem::path folder_;
  CellResult result_;
  std::string device_;
  double earlier_seconds_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point noted_ = Clock::now();
  bool stopping_ = false;
  std::unique_ptr<Child> child_;
};

}  // namespace joint_recall
