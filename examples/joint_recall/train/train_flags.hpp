// The options of `train`, which other commands take, too.
#pragma once

#include <CLI/CLI.hpp>

#include "train/settings.hpp"

namespace joint_recall {

inline constexpr const char* kOwnOptions = "Own options";

// One option for each field of TrainSettings; `flags` must live as long as the command.
void add_train_options(CLI::App& command, TrainFlags& flags);

}  // namespace joint_recall
