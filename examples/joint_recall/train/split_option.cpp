#include <fmt/format.h>

#include "train/commands.hpp"
#include "train/error.hpp"

namespace joint_recall {

CLI::App* add_subcommand(CLI::App& app, const char* name, const char* help) {
  CLI::App* command = app.add_subcommand(name, help);
  command->option_defaults()->take_last();
  return command;
}

void add_split_option(CLI::App& command, SplitName& split) {
  const auto set = [&split](const std::string& text) {
    for (const SplitName name : kSplitNames) {
      if (text != to_string(name)) continue;
      split = name;
      return;
    }
    throw TrainError(fmt::format("--split: expected train, valid or test, got '{}'", text));
  };
  command.add_option_function<std::string>("--split", set, "train, valid or test")
      ->default_str(to_string(split));
}

}  // namespace joint_recall
