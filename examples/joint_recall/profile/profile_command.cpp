#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "data/dataset.hpp"
#include "profile/profiler.hpp"
#include "train/commands.hpp"
#include "train/device.hpp"
#include "train/error.hpp"
#include "train/evaluate.hpp"
#include "train/report.hpp"
#include "train/run_files.hpp"
#include "train/settings.hpp"
#include "train/train_flags.hpp"

namespace joint_recall {
namespace {

constexpr const char* kAbout =
    "Trains for some steps, nothing is kept. Takes train's options for the model, the batch and "
    "the "
    "device. The roofline counts an operation's tensors as moved once, at the memory's peak speed.";

// Batches that are run again and again, so that every shape has been recorded before it is measured.
constexpr int64_t kBatches = 8;
constexpr int64_t kWarmupRounds = 3;

class Steps {
 public:
  Steps(Model& model, const Dataset& dataset, const TrainSettings& settings)
      : model_(model),
        settings_(settings),
        train_(model.backend(), dataset.train),
        batches_(dataset.train, settings.bsz, Repeat::kForever, settings.packing) {}

  // Runs that many and waits for them; seconds a step.
  double run(int64_t count) {
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < count; ++i) {
      ++step_;
      model_.queue_step(batches_.items(train_, step_ % kBatches),
                        {.step = step_, .gate_loss_weight = settings_.gate_loss_weight},
                        settings_.lr);
    }
    model_.take_results();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    return taken.count() / static_cast<double>(count);
  }

 private:
  Model& model_;
  const TrainSettings& settings_;
  ResidentSplit train_;
  BatchSource batches_;
  int64_t step_ = 0;
};

std::unique_ptr<Profiler> make_profiler(const std::string& device) {
#ifdef JOINT_RECALL_WITH_CUDA
  if (device != "cpu") return make_cuda_profiler();
#endif
  static_cast<void>(device);
  return make_cpu_profiler();
}

double peak_of(const std::string& device) {
#ifdef JOINT_RECALL_WITH_CUDA
  if (device != "cpu") return memory_bytes_per_second(gpu_number(device));
#endif
  static_cast<void>(device);
  return 0.0;
}

void sort_by_time(auto& rows) {
  std::ranges::stable_sort(rows,
                           [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
}

int run_profile(const TrainFlags& flags, int64_t steps, const std::string& json,
                const std::string& trace) {
  if (steps < 1) throw TrainError(fmt::format("--steps: expected 1 or more, got {}", steps));
  for (const char* name : {"grad_acc", "step", "warmup_step", "decay_step", "valid_step",
                           "log_step", "save_dir", "target_accuracy"}) {
    if (flags.has(name)) throw TrainError(fmt::format("--{}: profile doesn't use it", name));
  }
  const TrainSettings settings = resolve_settings(flags, false);
  const Dataset dataset = open_dataset(settings.data_dir);
  const std::unique_ptr<Profiler> profiler = make_profiler(settings.device);
  Model model(settings.model,
              make_backend(settings.device, settings.model.precision,
                           static_cast<int>(settings.num_threads)),
              settings.seed);
  model.initialise();
  Profile profile;
  profile.title =
      fmt::format("{}, {} items a step, {}, {}", run_name(settings), settings.bsz,
                  settings.packing ? "packed" : "padded", to_string(settings.model.precision));
  profile.device = device_name(settings.device);
  profile.steps = steps;
  profile.bytes_per_second = peak_of(settings.device);
  Steps run(model, dataset, settings);
  run.run(kWarmupRounds * kBatches);
  profile.step_seconds = run.run(steps);
  profiler->measure([&] { run.run(steps); }, profile);
  sort_by_time(profile.kernels);
  sort_by_time(profile.operations);
  say("{}", profile_text(profile));
  if (!json.empty()) replace_file(json, profile_json(profile));
  if (!trace.empty()) replace_file(trace, profile_trace(profile));
  return 0;
}

}  // namespace

void add_profile_command(CLI::App& app, int& exit_code) {
  CLI::App* command = add_subcommand(app, "profile", "Where the time of a training step goes");
  command->footer(kAbout);
  const auto flags = std::make_shared<TrainFlags>();
  const auto steps = std::make_shared<int64_t>(40);
  const auto json = std::make_shared<std::string>();
  command->add_option("--steps", *steps, "Steps to take the mean over")->capture_default_str();
  command->add_option("--json", *json, "File to write the table to as JSON, too");
  const auto trace = std::make_shared<std::string>();
  command->add_option("--trace", *trace,
                      "File for the start and end of every kernel, as Perfetto shows them");
  add_train_options(*command, *flags);
  command->callback([=, &exit_code] { exit_code = run_profile(*flags, *steps, *json, *trace); });
}

}  // namespace joint_recall
