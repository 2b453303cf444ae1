#include "train/finish.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "data/render.hpp"
#include "train/evaluate.hpp"
#include "train/metrics_log.hpp"
#include "train/plot_attention.hpp"
#include "train/plot_curves.hpp"
#include "train/progress_bar.hpp"
#include "train/report.hpp"
#include "train/run_files.hpp"
#include "train/stop_signal.hpp"

namespace joint_recall {
namespace {

std::optional<Evaluation> measure(Model& model, const Split& split, SplitName name,
                                  const TrainSettings& settings) {
  ProgressBar bar(fmt::format("{} items", to_string(name)), split.size());
  return evaluate(model, ResidentSplit(model.backend(), split), settings.bsz, settings.packing,
                  [&](int64_t items) {
                    bar.update(items);
                    return stop_signal() == 0;
                  });
}

struct Chosen {
  const char* name;  // of the checkpoint file
  int64_t step;
  double valid_accuracy;
};

// Leaves the model with the better of the best and the last weights. Where the run didn't end with a
// validation, the last weights are validated now, without a trace in the metrics: a run that goes on
// from here equals one that was never stopped.
std::optional<Chosen> choose(const RunFolder& folder, const Dataset& dataset, Model& model,
                             const CheckpointInfo& info) {
  const RunState& state = info.state;
  if (state.validated_step < state.step) {
    const auto last = measure(model, dataset.valid, SplitName::kValid, info.settings);
    if (!last) return std::nullopt;
    if (state.best_step == 0 || last->accuracy > state.best_accuracy) {
      return Chosen{kLastName, state.step, last->accuracy};
    }
  }
  Checkpoint(folder / kBestName).restore(model);
  return Chosen{kBestName, state.best_step, state.best_accuracy};
}

void draw_item(const RunFolder& folder, const Dataset& dataset, Model& model,
               const std::string& title) {
  const Split& split = dataset.test;
  const std::vector<LayerAttention> layers = item_attention(model, split, 0);
  if (!layers.empty()) {
    replace_file(folder / kAttentionName,
                 attention_svg(layers, split[0], split.vocabulary(), title));
    say("attention patterns of test item 0: {}", (folder / kAttentionName).string());
  }
  replace_file(folder / kItemName,
               item_svg(split[0], split.vocabulary(), title, item_predictions(model, split, 0)));
  say("test item 0 and its predictions: {}", (folder / kItemName).string());
}

}  // namespace

void draw_curves(const RunFolder& folder, const Dataset& dataset, const CheckpointInfo& info) {
  const CurvesInfo curves{.title = run_name(info.settings),
                          .chance = 1.0 / static_cast<double>(dataset.args.n_value),
                          .warmup_step = info.settings.warmup_step,
                          .best_step = info.state.best_step,
                          .best_accuracy = info.state.best_accuracy};
  replace_file(folder / kCurvesName, curves_svg(read_metrics(folder.path), curves));
  say("training curves: {}", (folder / kCurvesName).string());
}

bool finish_run(const RunFolder& folder, const Dataset& dataset, Model& model,
                const CheckpointInfo& info) {
  const std::optional<Chosen> chosen = choose(folder, dataset, model, info);
  if (!chosen) return false;
  const auto test = measure(model, dataset.test, SplitName::kTest, info.settings);
  if (!test) return false;

  const nlohmann::ordered_json summary = {
      {"test_accuracy", test->accuracy}, {"test_loss", test->loss},
      {"test_items", test->items},       {"checkpoint", chosen->name},
      {"checkpoint_step", chosen->step}, {"valid_accuracy", chosen->valid_accuracy},
      {"steps", info.state.step}};
  replace_file(folder / kSummaryName, summary.dump(2) + "\n");

  say("tested: {} (step {}, validation accuracy {})", (folder / chosen->name).string(),
      chosen->step, percent(chosen->valid_accuracy));
  say("metrics: {} and {}", (folder / kJsonlName).string(), (folder / kCsvName).string());
  draw_curves(folder, dataset, info);
  draw_item(folder, dataset, model, fmt::format("test item 0 after step {}", chosen->step));
  const bool by_accuracy = info.settings.target_accuracy > 0.0;
  say("to train on: {} train --resume {} --data_dir {} --step {}{}", program_name(),
      shell_quoted(folder.path.string()), shell_quoted(info.settings.data_dir), 2 * info.state.step,
      by_accuracy ? " --target_accuracy 0" : "");
  say("test accuracy: {}", percent(test->accuracy));
  return true;
}

}  // namespace joint_recall
