// joint_recall: trains and tests models on joint recall.
#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <new>

#include "train/commands.hpp"
#include "train/report.hpp"

namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

int run(int argc, char** argv) {
  using namespace joint_recall;
  set_program_name(argv[0]);
  CLI::App app("Mamba, Mamba-2 and Samba with sparse attention on joint recall", "joint_recall");
  int exit_code = 0;
  add_train_command(app, exit_code);
  add_create_dataset_command(app, exit_code);
  add_eval_command(app, exit_code);
  add_dump_command(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "joint_recall: {} (--help lists the options)\n", error.what());
    return kUsage;
  }
  if (app.get_subcommands().empty()) {
    fmt::print(
        stderr,
        "joint_recall: expected a subcommand: train, create-dataset, eval or dump (--help tells "
        "about them)\n");
    return kUsage;
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  // A write beyond a limit then fails with an error that names the file.
  ::signal(SIGXFSZ, SIG_IGN);
  try {
    return run(argc, argv);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "joint_recall: there is not enough memory\n");
  } catch (const std::exception& error) {
    fmt::print(stderr, "joint_recall: {}\n", error.what());
  }
  return kFailed;
}
