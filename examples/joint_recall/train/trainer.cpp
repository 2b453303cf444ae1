#include "train/trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "model/operation.hpp"
#include "train/error.hpp"
#include "train/report.hpp"
#include "train/stop_signal.hpp"

namespace joint_recall {
namespace {

constexpr double kSaveSeconds = 300.0;   // at the latest, beside every validation
constexpr double kShowSeconds = 10.0;    // between lines where there is no progress bar
constexpr double kCollectSeconds = 0.5;  // at the latest, where steps are slow

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double learning_rate(const TrainSettings& settings, int64_t step) {
  if (step <= settings.warmup_step) {
    return settings.lr * static_cast<double>(step - 1) / static_cast<double>(settings.warmup_step);
  }
  const int64_t left = settings.step - step + 1;
  if (left >= settings.decay_step) return settings.lr;
  return settings.lr * static_cast<double>(left) / static_cast<double>(settings.decay_step);
}

Trainer::Trainer(const RunFolder& folder, const Dataset& dataset, Model& model,
                 const CheckpointInfo& info, const Ranks& ranks)
    : folder_(folder),
      model_(model),
      train_(model.backend(), dataset.train),
      valid_(model.backend(), dataset.valid),
      info_(info),
      batches_(dataset.train, info.settings.bsz, Repeat::kForever, info.settings.packing,
               {.index = ranks.rank(), .count = ranks.size()}),
      ranks_(ranks) {
  if (ranks.first()) metrics_.emplace(folder.path, info.state);
}

// Ranks learn of it at the same step.
bool Trainer::stopped() { return ranks_.several() ? told_to_stop_ : stop_signal() != 0; }

bool Trainer::run() {
  ProgressBar bar("step", settings_.step, state_.step);
  save();
  collected_ = Clock::now();
  while (!stopped()) {
    if (validation_due()) {
      bar.clear();
      if (!validate()) break;
    }
    if (finished()) {
      collect();
      return true;
    }
    update();
    if (!collection_due()) continue;
    collect();
    if (state_.step % settings_.log_step == 0) log_steps();
    if (!validation_due() && seconds_since(saved_) > kSaveSeconds) save();
    show(bar);
  }
  bar.clear();
  collect();
  save();
  return false;
}

void Trainer::update() {
  const OperationScope scope({.name = "training step"});
  const int64_t step = state_.step + 1;
  const double lr = learning_rate(settings_, step);
  for (int64_t i = 0; i < settings_.grad_acc; ++i) {
    const int64_t number = (step - 1) * settings_.grad_acc + i;
    const ItemBatch batch = batches_.items(train_, number);
    const BatchShare share = batches_.batches().share(number);
    shares_.push_back(share.asked);
    const int64_t padded = train_.split().padded_length() - 1;
    const MicroStep micro_step = {
        .step = step,
        .index = static_cast<int32_t>(i),
        .count = static_cast<int32_t>(settings_.grad_acc),
        .gate_loss_weight = settings_.gate_loss_weight / ranks_.size(),
        .loss_share = share.asked,
        .first_token = settings_.packing ? share.inputs_before : share.items_before * padded};
    if (settings_.grad_acc == 1) {
      model_.queue_step(batch, micro_step, lr);
    } else {
      model_.queue(batch, micro_step);
    }
  }
  if (settings_.grad_acc > 1) model_.apply(step, lr);
  state_.step = step;
  ++uncollected_;
}

void Trainer::collect() {
  const std::vector<StepResult> results = take_results();
  const int64_t first_step = state_.step - uncollected_ + 1;
  for (int64_t i = 0; i < uncollected_; ++i) {
    latest_ = {};
    for (int64_t part = 0; part < settings_.grad_acc; ++part) {
      const StepResult& result = results[static_cast<size_t>(i * settings_.grad_acc + part)];
      const auto share = 1.0 / static_cast<double>(settings_.grad_acc);
      latest_.loss += share * result.loss;
      latest_.gate_loss += share * result.gate_loss;
      latest_.accuracy += share * result.accuracy;
    }
    if (!std::isfinite(latest_.loss) || !std::isfinite(latest_.gate_loss)) {
      throw TrainError(
          fmt::format("the loss became {} (ranking loss {}) at step {}; a smaller --lr or a longer "
                      "--warmup_step may help, and {} still holds step {}",
                      latest_.loss, latest_.gate_loss, first_step + i,
                      (folder_ / kLastName).string(), saved_step_));
    }
    ++state_.sums.steps;
    state_.sums.loss += latest_.loss;
    state_.sums.gate_loss += latest_.gate_loss;
    state_.sums.accuracy += latest_.accuracy;
  }
  if (uncollected_ == 0) return;
  const double seconds = seconds_since(collected_) / static_cast<double>(uncollected_);
  // As if each step had been smoothed by itself.
  const double weight = 1.0 - std::pow(0.95, static_cast<double>(uncollected_));
  seconds_per_step_ = seconds_per_step_ == 0.0
                          ? seconds
                          : seconds_per_step_ + weight * (seconds - seconds_per_step_);
  uncollected_ = 0;
  collected_ = Clock::now();
}

std::vector<StepResult> Trainer::take_results() {
  std::vector<StepResult> results = model_.take_results();
  const std::vector<double> shares = std::exchange(shares_, {});
  if (!ranks_.several()) return results;
  std::vector<double> numbers = {stop_signal() == 0 ? 0.0 : 1.0};
  for (size_t i = 0; i < results.size(); ++i) {
    numbers.push_back(results[i].loss * shares[i]);
    numbers.push_back(results[i].gate_loss / ranks_.size());
    numbers.push_back(results[i].accuracy / ranks_.size());
  }
  ranks_.sum(std::span<double>(numbers));
  told_to_stop_ = told_to_stop_ || numbers[0] > 0.0;
  for (size_t i = 0; i < results.size(); ++i) {
    results[i].loss = numbers[1 + 3 * i];
    results[i].gate_loss = numbers[2 + 3 * i];
    results[i].accuracy = numbers[3 + 3 * i];
  }
  return results;
}

bool Trainer::collection_due() const {
  if (ranks_.several()) return state_.step % settings_.log_step == 0;  // at the same step on all
  return state_.step % settings_.log_step == 0 || seconds_since(collected_) > kCollectSeconds;
}

double Trainer::items_per_second() const {
  return static_cast<double>(settings_.bsz * settings_.grad_acc) / seconds_per_step_;
}

std::string Trainer::speed() const {
  if (seconds_per_step_ == 0.0) return {};
  return fmt::format("  {:.1f} ms/step  {:.0f} items/s", 1e3 * seconds_per_step_,
                     items_per_second());
}

void Trainer::log_steps() {
  const auto steps = static_cast<double>(state_.sums.steps);
  if (metrics_) {
    metrics_->add({.step = state_.step,
                   .validation = false,
                   .loss = state_.sums.loss / steps,
                   .gate_loss = state_.sums.gate_loss / steps,
                   .accuracy = state_.sums.accuracy / steps,
                   .lr = learning_rate(settings_, state_.step)});
    metrics_->add_timing(state_.step, seconds_per_step_, items_per_second());
  }
  state_.sums = {};
}

void Trainer::show(ProgressBar& bar) {
  const std::string numbers =
      fmt::format("loss {:.4f}  accuracy {}{}", latest_.loss, percent(latest_.accuracy), speed());
  bar.update(state_.step, numbers);
  if (bar.live() || seconds_since(shown_) < kShowSeconds) return;
  shown_ = Clock::now();
  const double left = seconds_per_step_ * static_cast<double>(settings_.step - state_.step);
  say("step {}/{}  {}  left {}", state_.step, settings_.step, numbers, duration_text(left));
}

bool Trainer::validation_due() const {
  return state_.step % settings_.valid_step == 0 && state_.validated_step < state_.step;
}

bool Trainer::finished() const {
  const bool reached = state_.best_step > 0 && settings_.target_accuracy > 0.0 &&
                       state_.best_accuracy >= settings_.target_accuracy;
  return reached || state_.step >= settings_.step;
}

bool Trainer::validate() {
  const OperationScope scope({.name = "validation"});
  collect();
  const Clock::time_point start = Clock::now();
  ProgressBar bar(fmt::format("validation after step {}:", state_.step), valid_.split().size());
  std::optional<Evaluation> result;
  if (ranks_.several()) {
    result = evaluate_together(model_, valid_, settings_.bsz, settings_.packing, ranks_);
  } else {
    result = evaluate(model_, valid_, settings_.bsz, settings_.packing, [&](int64_t items) {
      bar.update(items);
      return stop_signal() == 0;
    });
  }
  bar.clear();
  if (!result) return false;
  if (!std::isfinite(result->loss)) {
    throw TrainError(
        fmt::format("the validation loss became {} after step {}; {} still holds step {}",
                    result->loss, state_.step, (folder_ / kLastName).string(), saved_step_));
  }

  if (metrics_) {
    metrics_->add({.step = state_.step,
                   .validation = true,
                   .loss = result->loss,
                   .gate_loss = 0.0,
                   .accuracy = result->accuracy,
                   .lr = 0.0});
  }
  state_.validated_step = state_.step;
  const bool best = state_.best_step == 0 || result->accuracy > state_.best_accuracy;
  if (best) {
    state_.best_step = state_.step;
    state_.best_accuracy = result->accuracy;
  }
  // In this order: if only the first is written, resuming finds that the best is the last.
  save();
  if (best && metrics_) save_best(folder_, model_, info_);

  shown_ = collected_ = Clock::now();
  say("step {}/{}  validation: loss {:.4f}  accuracy {}{}  took {:.1f} s{}", state_.step,
      settings_.step, result->loss, percent(result->accuracy), speed(), seconds_since(start),
      best ? "  best so far" : "");
  return true;
}

void save_best(const RunFolder& folder, const Model& model, CheckpointInfo info) {
  info.settings.step = info.state.step;
  save_checkpoint(folder / kBestName, model, info);
}

void Trainer::save() {
  const OperationScope scope({.name = "checkpoint"});
  if (metrics_) {
    metrics_->sync(state_);
    save_checkpoint(folder_ / kLastName, model_, info_);
  }
  saved_ = Clock::now();
  saved_step_ = state_.step;
}

}  // namespace joint_recall
