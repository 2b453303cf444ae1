#include <fmt/format.h>

#include <memory>

#include "data/render.hpp"
#include "train/commands.hpp"
#include "train/error.hpp"
#include "train/evaluate.hpp"
#include "train/loaded_model.hpp"
#include "train/plot_attention.hpp"
#include "train/report.hpp"
#include "train/run_files.hpp"

namespace joint_recall {
namespace {

struct DumpOptions {
  std::string data_dir;
  SplitName split = SplitName::kTest;
  int64_t item = 0;
  std::string checkpoint;
  std::string svg;
  std::string attention;
};

void run_dump(const DumpOptions& options) {
  if (!options.attention.empty() && options.checkpoint.empty()) {
    throw TrainError("--attention: expected a model to ask, given by --checkpoint");
  }
  const Dataset dataset = open_dataset(options.data_dir);
  const Split& split = dataset.split(options.split);
  const Item item = split[options.item];
  std::string title = fmt::format("{} item {}", to_string(options.split), options.item);

  std::vector<int> predictions;
  std::optional<LoadedModel> loaded;
  if (!options.checkpoint.empty()) {
    loaded.emplace(options.checkpoint, dataset, options.data_dir, "cpu", 0);
    predictions = item_predictions(*loaded->model, split, options.item);
    title += fmt::format(" after step {}", loaded->info.state.step);
  }
  fmt::print("{}", item_text(item, dataset.vocabulary(), predictions));
  if (!options.svg.empty()) {
    replace_file(options.svg, item_svg(item, dataset.vocabulary(), title, predictions));
    say("picture: {}", options.svg);
  }
  if (!options.attention.empty()) {
    const std::vector<LayerAttention> layers = item_attention(*loaded->model, split, options.item);
    if (layers.empty()) {
      throw TrainError(fmt::format("--attention: no layer of {} attends", options.checkpoint));
    }
    replace_file(options.attention, attention_svg(layers, item, dataset.vocabulary(), title));
    say("attention: {}", options.attention);
  }
}

}  // namespace

void add_dump_command(CLI::App& app, int& exit_code) {
  CLI::App* command = add_subcommand(app, "dump", "Show one item as text and as a picture");
  const auto options = std::make_shared<DumpOptions>();
  command->add_option("--data_dir", options->data_dir, "Folder of the data set")->required();
  add_split_option(*command, options->split);
  command->add_option("--item", options->item, "Index of the item in its split")
      ->capture_default_str();
  command->add_option("--svg", options->svg, "File to write a picture of the item to");
  command->add_option("--checkpoint", options->checkpoint, "Show what this model predicts");
  command->add_option("--attention", options->attention,
                      "File to write a picture of the model's attention patterns to");
  command->callback([options, &exit_code] {
    run_dump(*options);
    exit_code = 0;
  });
}

}  // namespace joint_recall
