// The training loop: updates, metrics, validation, checkpoints.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "model/model.hpp"
#include "ranks/ranks.hpp"
#include "train/checkpoint.hpp"
#include "train/evaluate.hpp"
#include "train/metrics_log.hpp"
#include "train/progress_bar.hpp"
#include "train/run_folder.hpp"

namespace joint_recall {

// Learning rate of update `step`, counted from 1: it rises from 0 by lr / warmup_step an update,
// and over the last decay_step updates falls by lr / decay_step each.
double learning_rate(const TrainSettings& settings, int64_t step);

// The file is that of a run that ends here: it doesn't depend on how long this one goes on.
void save_best(const RunFolder& folder, const Model& model, CheckpointInfo info);

class Trainer {
 public:
  // The model holds the weights and moments that belong to info.state.
  Trainer(const RunFolder& folder, const Dataset& dataset, Model& model, const CheckpointInfo& info,
          const Ranks& ranks);

  // Trains to settings.step or settings.target_accuracy. False when a stop signal came before; everything is saved either way.
  // Throws TrainErrors; checkpoints saved before stay as they are.
  bool run();

  const CheckpointInfo& info() const { return info_; }

 private:
  using Clock = std::chrono::steady_clock;

  bool stopped();
  void update();
  // Waits for the steps queued and adds their numbers up.
  void collect();
  // Of the steps queued, in their order: means over all ranks.
  std::vector<StepResult> take_results();
  bool collection_due() const;
  void log_steps();
  double items_per_second() const;
  std::string speed() const;
  bool validation_due() const;
  bool finished() const;
  bool validate();
  void save();
  void show(ProgressBar& bar);

  const RunFolder& folder_;
  Model& model_;
  ResidentSplit train_, valid_;
  CheckpointInfo info_;
  const TrainSettings& settings_ = info_.settings;
  RunState& state_ = info_.state;
  BatchSource batches_;
  const Ranks& ranks_;
  std::optional<MetricsLog> metrics_;  // of the first rank alone

  StepResult latest_;
  std::vector<double> shares_;     // of this rank in each of the micro-steps queued
  bool told_to_stop_ = false;      // a signal came to any rank
  int64_t uncollected_ = 0;        // steps queued whose numbers were not looked at
  double seconds_per_step_ = 0.0;  // smoothed; 0: unknown
  int64_t saved_step_ = 0;
  Clock::time_point saved_ = Clock::now();
  Clock::time_point shown_ = Clock::now();
  Clock::time_point collected_ = Clock::now();
};

}  // namespace joint_recall
