// joint_recall: trains and tests models on joint recall.
#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <new>

#include "train/commands.hpp"
#include "train/report.hpp"

namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

// Threads that spin while they wait take the cores from other programs and from each other: beside a
// compiler on two cores, 40 steps took 42 s against 5.5 s. OpenMP reads its environment while it is
// loaded, hence the fresh start; where that fails, things go on as they are.
void let_threads_sleep(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  if (::setenv("OMP_WAIT_POLICY", "passive", 1) == 0) ::execv("/proc/self/exe", argv);
}

int run(int argc, char** argv) {
  using namespace joint_recall;
  set_program_name(argv[0]);
  CLI::App app("Mamba, Mamba-2 and Samba with sparse attention on joint recall", "joint_recall");
  int exit_code = 0;
  add_train_command(app, exit_code);
  add_create_dataset_command(app, exit_code);
  add_eval_command(app, exit_code);
  add_dump_command(app, exit_code);
  add_sweep_command(app, exit_code);
  add_profile_command(app, exit_code);
  add_report_command(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "joint_recall: {} (--help lists the options)\n", error.what());
    return kUsage;
  }
  if (app.get_subcommands().empty()) {
    fmt::print(stderr,
               "joint_recall: expected a subcommand: train, sweep, profile, report, "
               "create-dataset, eval or dump "
               "(--help tells about them)\n");
    return kUsage;
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  let_threads_sleep(argv);
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
