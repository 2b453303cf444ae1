#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "sweep/results_text.hpp"
#include "sweep/sweep.hpp"
#include "train/commands.hpp"
#include "train/device.hpp"
#include "train/error.hpp"
#include "train/report.hpp"
#include "train/run_files.hpp"
#include "train/stop_signal.hpp"

namespace joint_recall {
namespace {

constexpr int kCellFailed = 1;
constexpr int kNotAllDone = 3;

constexpr const char* kAbout =
    "Runs the cells that aren't done, each as `train` with the cell's flags over the paper's "
    "recipe; started again, the sweep goes on where it was. Exit code 0: all cells are done, 1: "
    "one "
    "failed, 3: some are left.";

struct SweepFlags {
  std::string cells = "table3";
  std::string folder;
  std::vector<std::string> only, set;
  SweepOptions options;
};

void check(const SweepFlags& flags) {
  if (flags.options.cells_per_gpu < 1) {
    throw TrainError(
        fmt::format("--cells_per_gpu: expected 1 or more, got {}", flags.options.cells_per_gpu));
  }
  if (!(flags.options.time_limit >= 0.0)) {
    throw TrainError(fmt::format("--time_limit: expected seconds, or 0 for none, got {}",
                                 flags.options.time_limit));
  }
  for (const std::string& device : flags.options.devices) check_device(device);
}

int run(SweepFlags flags) {
  check(flags);
  CellList list = load_cells(flags.cells);
  CellFlags set;
  for (const std::string& text : flags.set)
    set.insert_or_assign(parse_flag(text).first, parse_flag(text).second);
  set_flags(list, set);
  if (!flags.only.empty()) keep_cells(list, flags.only);
  SweepOptions& options = flags.options;
  options.folder = flags.folder.empty() ? "outputs/sweep_" + list.name : flags.folder;
  if (options.devices.empty()) options.devices = all_devices();

  const SweepResults results = run_sweep(list, options);
  replace_file(options.folder / "table.md", results_table(results) + "\n" +
                                                results_settings(results) + "\n\n" +
                                                results_details(results));
  replace_file(options.folder / "chart.svg", results_chart(results));
  say("\n{}", results_table(results));
  say("table, chart and results: {0}/table.md, {0}/chart.svg, {0}/{1}", options.folder.string(),
      kResultsName);
  const auto count = [&](CellStatus status) {
    return std::ranges::count_if(results.cells,
                                 [&](const CellResult& result) { return result.status == status; });
  };
  const auto done = count(CellStatus::kDone);
  say("{} of {} cells done", done, results.cells.size());
  if (stop_signal() != 0) return kStoppedExitCode + stop_signal();
  if (count(CellStatus::kFailed) > 0) return kCellFailed;
  return static_cast<size_t>(done) == results.cells.size() ? 0 : kNotAllDone;
}

}  // namespace

void add_sweep_command(CLI::App& app, int& exit_code) {
  CLI::App* command =
      add_subcommand(app, "sweep", "Train a list of models, such as the paper's table");
  const auto flags = std::make_shared<SweepFlags>();
  command->footer(kAbout);
  command->add_option("--cells", flags->cells, "table3, beyond, or a JSON file of cells")
      ->capture_default_str();
  command->add_option("--only", flags->only, "Names of cells: these alone")->delimiter(',');
  command
      ->add_option("--set", flags->set, "OPTION=VALUE of train, for all cells; may be given again")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--sweep_dir", flags->folder,
                      "Folder of the cells' runs and of the results (default: outputs/sweep_LIST)");
  command->add_option("--data_dir", flags->options.data_dir, "Folder of the data set")->required();
  command
      ->add_option("--devices", flags->options.devices,
                   "Where cells run, e.g. cuda:0,cuda:1 (default: all GPUs, otherwise cpu)")
      ->delimiter(',');
  command
      ->add_option("--cells_per_gpu", flags->options.cells_per_gpu,
                   "Cells at once on each device: one leaves much of a large GPU idle")
      ->capture_default_str();
  command
      ->add_option("--time_limit", flags->options.time_limit,
                   "Seconds after which runs have saved and stopped; 0: none")
      ->capture_default_str();
  command->callback([flags, &exit_code] {
    catch_stop_signals();
    exit_code = run(*flags);
  });
}

}  // namespace joint_recall
