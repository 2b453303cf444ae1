#include <fmt/format.h>

#include <array>
#include <functional>
#include <memory>
#include <optional>

#include "data/dataset.hpp"
#include "data/dataset_error.hpp"
#include "data/text_format.hpp"
#include "train/commands.hpp"
#include "train/progress_bar.hpp"
#include "train/report.hpp"
#include "train/run_files.hpp"
#include "train/stop_signal.hpp"

namespace joint_recall {
namespace {

struct CreateDatasetOptions {
  GeneratorArgs args;
  std::string data_dir = "data";
  std::string text_dir;
};

constexpr std::array<const char*, 8> kHelp = {
    "Most contexts of a table",
    "Most keys of a table",
    "Number of different values",
    "Training items for each pair of sizes",
    "Validation items, and as many test items, for each pair of sizes",
    "Seed of the generator",
    "Fewest contexts of a table",
    "Fewest keys of a table"};

// Work that a stop signal may end: gives the exit code.
int interruptible(const std::function<void(const Progress&)>& work, const char* label) {
  ProgressBar bar(label, 1000);
  try {
    work([&](int64_t done, int64_t total) {
      bar.update(done * 1000 / std::max<int64_t>(total, 1));
      return stop_signal() == 0;
    });
  } catch (const DatasetError&) {
    if (stop_signal() == 0) throw;
    bar.clear();
    say("stopped; nothing is left behind");
    return kStoppedExitCode + stop_signal();
  }
  return 0;
}

int run_create_dataset(const CreateDatasetOptions& options) {
  std::optional<CreatedDataset> created;
  int code = interruptible(
      [&](const Progress& progress) {
        created = create_dataset(options.data_dir, options.args, progress);
      },
      "items (thousandths):");
  if (code != 0) return code;
  say("{}: {}", options.data_dir,
      created->reused ? "a data set of these arguments is there already" : "made");
  for (const SplitName name : kSplitNames) {
    say("{}: {} items", to_string(name), grouped(created->dataset.split(name).size()));
  }
  if (options.text_dir.empty()) return 0;

  make_folders(options.text_dir);
  code = interruptible(
      [&](const Progress& progress) {
        const TextFiles files = export_text(created->dataset, options.text_dir, progress);
        say("text files: {}", (files.folder / files.prefix()).string() + "_*.txt");
      },
      "text (thousandths):");
  return code;
}

}  // namespace

void add_create_dataset_command(CLI::App& app, int& exit_code) {
  CLI::App* command = add_subcommand(app, "create-dataset", "Make a joint-recall data set");
  const auto options = std::make_shared<CreateDatasetOptions>();
  command->add_option("--data_dir", options->data_dir, "Folder to make it in")
      ->capture_default_str();
  for (size_t i = 0; i < kArgFields.size(); ++i) {
    command
        ->add_option(fmt::format("--{}", kArgFields[i].name), options->args.*kArgFields[i].member,
                     kHelp[i])
        ->capture_default_str();
  }
  command->add_option("--text", options->text_dir,
                      "Folder to write it to as the official generator's text files, too");
  command->callback([options, &exit_code] {
    catch_stop_signals();
    exit_code = run_create_dataset(*options);
  });
}

}  // namespace joint_recall
