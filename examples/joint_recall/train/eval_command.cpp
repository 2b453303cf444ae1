#include <fmt/format.h>

#include <memory>

#include "train/commands.hpp"
#include "train/device.hpp"
#include "train/error.hpp"
#include "train/evaluate.hpp"
#include "train/loaded_model.hpp"
#include "train/progress_bar.hpp"
#include "train/report.hpp"
#include "train/stop_signal.hpp"

namespace joint_recall {
namespace {

struct EvalOptions {
  std::string checkpoint;
  std::string data_dir;
  SplitName split = SplitName::kTest;
  std::string device = default_device();
  int64_t bsz = 64;
  int num_threads = 0;
  bool packing = true;
};

// Rows are contexts, columns keys.
void say_table(const Evaluation& result) {
  std::map<int, bool> columns;
  for (const auto& [shape, table] : result.by_table) columns[shape.second] = true;
  std::string line = "contexts \\ keys";
  for (const auto& [keys, present] : columns) line += fmt::format("{:>7}", keys);
  int contexts = -1;
  auto column = columns.begin();
  for (const auto& [shape, table] : result.by_table) {
    if (shape.first != contexts) {
      say("{}", line);
      contexts = shape.first;
      column = columns.begin();
      line = fmt::format("{:>15}", contexts);
    }
    for (; column->first != shape.second; ++column) line += fmt::format("{:>7}", "");
    line += fmt::format("{:>7.1f}", 100.0 * table.accuracy());
    ++column;
  }
  say("{}", line);
}

int run_eval(const EvalOptions& options) {
  if (options.bsz < 1)
    throw TrainError(fmt::format("--bsz: expected 1 or more, got {}", options.bsz));
  if (options.num_threads < 0) {
    throw TrainError(fmt::format("--num_threads: expected 0 or more, got {}", options.num_threads));
  }
  const Dataset dataset = open_dataset(options.data_dir);
  LoadedModel loaded(options.checkpoint, dataset, options.data_dir, options.device,
                     options.num_threads);
  const Split& split = dataset.split(options.split);
  ProgressBar bar(fmt::format("{} items", to_string(options.split)), split.size());
  const auto result = evaluate(*loaded.model, ResidentSplit(loaded.model->backend(), split),
                               options.bsz, options.packing, [&](int64_t items) {
                                 bar.update(items);
                                 return stop_signal() == 0;
                               });
  bar.clear();
  if (!result) return kStoppedExitCode + stop_signal();
  say("checkpoint: {} (step {})", options.checkpoint, loaded.info.state.step);
  say("{} items, loss {:.4f}", grouped(result->items), result->loss);
  if (result->by_table.size() > 1) say_table(*result);
  say("{} accuracy: {}", to_string(options.split), percent(result->accuracy));
  return 0;
}

}  // namespace

void add_eval_command(CLI::App& app, int& exit_code) {
  CLI::App* command = add_subcommand(app, "eval", "Accuracy of a checkpoint on a data set");
  const auto options = std::make_shared<EvalOptions>();
  command->add_option("--checkpoint", options->checkpoint, "Checkpoint file of a run")->required();
  command->add_option("--data_dir", options->data_dir, "Folder of the data set")->required();
  add_split_option(*command, options->split);
  command->add_option("--bsz", options->bsz, "Items in a batch")->capture_default_str();
  command->add_flag_callback(
      "--no-packing", [options] { options->packing = false; },
      "Pad each item to the longest, instead of items end to end");
  command->add_option("--device", options->device, "cpu, cuda or cuda:N")->capture_default_str();
  command
      ->add_option("--num_threads", options->num_threads, "CPU threads; 0: as many as OpenMP gives")
      ->capture_default_str();
  command->callback([options, &exit_code] {
    catch_stop_signals();
    exit_code = run_eval(*options);
  });
}

}  // namespace joint_recall
