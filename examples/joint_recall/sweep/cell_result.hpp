// What is known of a cell, and of a sweep's cells together: result.json and results.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "sweep/cell.hpp"

namespace joint_recall {

inline constexpr const char* kResultName = "result.json";
inline constexpr const char* kResultsName = "results.json";

enum class CellStatus { kNotRun, kRunning, kStopped, kFailed, kDone };
const char* to_string(CellStatus status);  // "not run", "running", ...

struct CellResult {
  Cell cell;
  CellStatus status = CellStatus::kNotRun;
  std::string message;  // of a failed one: its last words
  int64_t steps = 0;
  int64_t best_step = 0;
  double valid_accuracy = 0.0;  // of the best weights
  double test_accuracy = 0.0;   // of a finished one
  double ms_per_step = 0.0;
  double wall_seconds = 0.0;  // of all sessions together, from process start to end
  int64_t sessions = 0;
  int64_t cells_per_gpu = 1;  // in the latest session
  std::string device;         // "NVIDIA H100 80GB HBM3"
  std::string time;           // when it ended last
};

struct SweepResults {
  std::string list, title;
  std::vector<CellResult> cells;
};

// Of a cell that was never started: not run.
CellResult read_result(const std::filesystem::path& cell_folder, const Cell& cell);
void write_result(const std::filesystem::path& cell_folder, const CellResult& result);

SweepResults read_results(const std::filesystem::path& path);
void write_results(const std::filesystem::path& path, const SweepResults& results);

}  // namespace joint_recall
