// Checkpoints: safetensors files that hold the weights, the optimiser's moments and, as metadata, all
// that a run needs to go on with equal bits.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "data/dataset.hpp"
#include "model/model.hpp"
#include "train/safetensors.hpp"
#include "train/settings.hpp"

namespace joint_recall {

// Sums over the steps since the latest line of metrics.
struct StepSums {
  int64_t steps = 0;
  double loss = 0.0;
  double gate_loss = 0.0;
  double accuracy = 0.0;
};

struct RunState {
  int64_t step = 0;            // updates done
  int64_t validated_step = 0;  // the latest step whose validation is in the metrics
  int64_t best_step = 0;       // 0: none yet
  double best_accuracy = 0.0;  // of validation
  StepSums sums;
  int64_t jsonl_bytes = 0;  // of the metrics that belong to these steps
  int64_t csv_bytes = 0;
};

// Tells data sets apart: what they were generated with, and a checksum over the tokens of all splits.
struct DatasetIdentity {
  GeneratorArgs args;
  uint64_t checksum = 0;
  bool operator==(const DatasetIdentity&) const = default;
};
DatasetIdentity identify(const Dataset& dataset);

struct CheckpointInfo {
  TrainSettings settings;  // with the model configuration
  DatasetIdentity dataset;
  RunState state;
};

void save_checkpoint(const std::filesystem::path& path, const Model& model,
                     const CheckpointInfo& info);

// A checkpoint read and found whole. All errors are TrainErrors that name the file.
class Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path& path);

  const std::string& path() const { return path_; }
  const CheckpointInfo& info() const { return info_; }
  // Gives the model its weights and moments. The file must hold exactly what the model has.
  void restore(Model& model) const;

 private:
  const std::string& metadata(const char* key) const;

  std::string path_;
  SafetensorsFile file_;
  CheckpointInfo info_;
};

// A sentence's end on how two data sets differ: "seed is 2, expected 1".
std::string difference(const DatasetIdentity& found, const DatasetIdentity& expected);

}  // namespace joint_recall
