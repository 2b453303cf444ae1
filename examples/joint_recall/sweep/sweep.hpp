// Runs the cells of a list, some at a time, each as a process of its own.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "sweep/cell_result.hpp"

namespace joint_recall {

struct SweepOptions {
  std::filesystem::path folder;  // <folder>/<cell>/ holds the cell's run, log and result
  std::string data_dir;
  std::vector<std::string> devices;  // cpu, cuda:0, cuda:1, ...
  int64_t cells_per_gpu = 1;         // at once on each device
  double time_limit = 0.0;           // seconds; 0: none
};

// Cells that are done are skipped, others go on from their last checkpoint. A stop signal, or the time
// limit, has the runs save and stop. Returns what is known of every cell then, which
// <folder>/results.json holds, too.
SweepResults run_sweep(const CellList& list, const SweepOptions& options);

}  // namespace joint_recall
