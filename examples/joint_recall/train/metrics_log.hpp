// The numbers of a run, step by step: metrics.jsonl and metrics.csv hold the same records and nothing
// that differs between equal runs; timing.jsonl says when and how fast.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "train/checkpoint.hpp"
#include "train/run_files.hpp"

namespace joint_recall {

inline constexpr const char* kJsonlName = "metrics.jsonl";
inline constexpr const char* kCsvName = "metrics.csv";
inline constexpr const char* kTimingName = "timing.jsonl";

std::string utc_now();  // "2026-01-31T12:34:56Z"

struct MetricsRecord {
  int64_t step = 0;
  bool validation = false;  // else means over the training steps since the record before
  double loss = 0.0;
  double gate_loss = 0.0;  // training alone
  double accuracy = 0.0;
  double lr = 0.0;  // training alone
};

class MetricsLog {
 public:
  // Goes on in `folder` after the records that `state` knows of; later ones are cut off.
  MetricsLog(const std::filesystem::path& folder, const RunState& state);

  void add(const MetricsRecord& record);
  void add_timing(int64_t step, double seconds_per_step, double items_per_second);
  // Returns when the disk holds all records; notes in `state` how many bytes they are.
  void sync(RunState& state);

 private:
  AppendFile jsonl_;
  AppendFile csv_;
  AppendFile timing_;
};

// The records of metrics.jsonl.
std::vector<MetricsRecord> read_metrics(const std::filesystem::path& folder);

}  // namespace joint_recall
