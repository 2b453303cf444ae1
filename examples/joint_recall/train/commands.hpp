// The subcommands of the program. Each adds its options and leaves its exit code when it is run.
#pragma once

#include <CLI/CLI.hpp>

#include "data/generator.hpp"

namespace joint_recall {

void add_train_command(CLI::App& app, int& exit_code);
void add_create_dataset_command(CLI::App& app, int& exit_code);
void add_eval_command(CLI::App& app, int& exit_code);
void add_dump_command(CLI::App& app, int& exit_code);
void add_sweep_command(CLI::App& app, int& exit_code);
void add_profile_command(CLI::App& app, int& exit_code);
void add_report_command(CLI::App& app, int& exit_code);

inline constexpr int kStoppedExitCode = 128;  // plus the signal's number

// A subcommand whose options may be given again: the last one counts.
CLI::App* add_subcommand(CLI::App& app, const char* name, const char* help);

// --split: train, valid or test.
void add_split_option(CLI::App& command, SplitName& split);

}  // namespace joint_recall
