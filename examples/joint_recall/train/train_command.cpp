#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>

#include "data/dataset.hpp"
#include "data/dataset_error.hpp"
#include "data/files.hpp"
#include "data/manifest.hpp"
#include "ranks/gradient_sum.hpp"
#include "train/commands.hpp"
#include "train/device.hpp"
#include "train/error.hpp"
#include "train/finish.hpp"
#include "train/report.hpp"
#include "train/run_files.hpp"
#include "train/stop_signal.hpp"
#include "train/train_flags.hpp"
#include "train/trainer.hpp"

namespace joint_recall {
namespace {

constexpr const char* kAbout =
    "Without --data_dir, or without a GPU, the quick setting is the default: Mamba-2 with HAX on "
    "tables of 4 contexts x 4 "
    "keys x 8 "
    "values, whose data set is made where it is missing; it takes a minute or two. Flags override "
    "its parts. "
    "The defaults shown are the paper's, which --no-quick turns on. Ctrl-C saves and exits; "
    "--resume goes on "
    "with equal bits.";

std::string describe(const ModelConfig& model) {
  std::string text = fmt::format("{} of width {}, {} layers", to_string(model.base_arch),
                                 model.hidden_size, model.num_hidden_layers);
  if (!model.sparse_arch.present()) return text;
  text += fmt::format(", sparse attention {} over {} keys", to_string(model.sparse_arch),
                      model.sparse_keys);
  if (model.sparse_arch.has(HAX_PATTERN_LSH)) text += fmt::format(", {} hash bits", model.num_hash);
  return text;
}

void say_quick(const TrainSettings& settings) {
  const std::string end =
      settings.target_accuracy > 0.0
          ? fmt::format(" at most, until validation reaches {}", percent(settings.target_accuracy))
          : "";
  say("quick setting ({}): {} steps of {} items{}; learning rate {}, warm-up {} steps",
      has_gpu() ? "asked for" : "there is no GPU", settings.step, settings.bsz * settings.grad_acc,
      end, settings.lr, settings.warmup_step);
  say("the paper's setting: {0} create-dataset --data_dir data && {0} train --no-quick --base_arch "
      "mamba2 "
      "--sparse_arch sign_bin_lsh+key_selection --data_dir data",
      program_name());
}

Dataset open_training_data(const TrainSettings& settings, bool make_quick_data) {
  if (!make_quick_data) {
    std::error_code none;
    if (!std::filesystem::exists(settings.data_dir, none)) {
      throw TrainError(fmt::format(
          "--data_dir: there is no folder {}; {} create-dataset --data_dir {} makes the "
          "paper's data set in it",
          settings.data_dir, program_name(), shell_quoted(settings.data_dir)));
    }
    return open_dataset(settings.data_dir);
  }
  // A set that is there already can be read by several runs at once.
  const std::filesystem::path folder = settings.data_dir;
  if (path_exists(folder / kManifestName) &&
      read_manifest(folder / kManifestName).args == quick_dataset()) {
    return open_dataset(folder);
  }
  ProgressBar bar("making the quick data set, thousandths:", 1000);
  return create_dataset(folder, quick_dataset(),
                        [&](int64_t done, int64_t total) {
                          bar.update(done * 1000 / std::max<int64_t>(total, 1));
                          return stop_signal() == 0;
                        })
      .dataset;
}

// Before a folder is made for the run.
void check_fits(const Dataset& dataset, const TrainSettings& settings, const Ranks& ranks) {
  BatchIterator(dataset.train, settings.bsz, Repeat::kForever,
                {.index = ranks.rank(), .count = ranks.size()});
  const int tokens = dataset.vocabulary().size();
  if (tokens > settings.model.vocab_size) {
    throw TrainError(fmt::format(
        "vocab_size: the data set {} has {} token ids, but the model only {}; --config_dir "
        "can give it more",
        settings.data_dir, tokens, settings.model.vocab_size));
  }
}

int stopped(const RunFolder& folder, const Dataset& dataset, const CheckpointInfo& info) {
  const int signal = stop_signal() == 0 ? SIGTERM : stop_signal();  // 0: it came to another rank
  say("stopped by {} after step {} of {}; everything is saved in {}",
      signal == SIGINT ? "Ctrl-C" : "SIGTERM", info.state.step, info.settings.step,
      folder.path.string());
  draw_curves(folder, dataset, info);
  say("to go on: {} train --resume {} --data_dir {}", program_name(),
      shell_quoted(folder.path.string()), shell_quoted(info.settings.data_dir));
  return kStoppedExitCode + signal;
}

// What ranks must have in common to be one run.
void agree(const Ranks& ranks, const Model& model, const CheckpointInfo& info) {
  if (!ranks.several()) return;
  ranks.agree("command line, or checkpoint", settings_to_json(info.settings));
  ranks.agree("data set", fmt::format("{}", info.dataset.checksum));
  std::string weights = fmt::format("{} ", info.state.step);
  for (const Parameter& parameter : model.parameters()) {
    for (const float value : model.get(parameter, ParameterPart::kValue)) {
      weights += fmt::format("{} ", value);
    }
  }
  ranks.agree("initial model", weights);
}

int train_and_finish(const RunFolder& folder, const Dataset& dataset, Model& model,
                     const CheckpointInfo& info, const Ranks& ranks, const Backend& backend) {
  agree(ranks, model, info);
  model.set_gradient_sum(make_gradient_sum(ranks, backend));
  Trainer trainer(folder, dataset, model, info, ranks);
  const bool trained = trainer.run();
  if (!ranks.first()) return trained ? 0 : kStoppedExitCode + SIGTERM;
  if (!trained || !finish_run(folder, dataset, model, trainer.info())) {
    return stopped(folder, dataset, trainer.info());
  }
  return 0;
}

// The first rank opens it first, since it makes it where it is missing.
Dataset open_in_turn(const Ranks& ranks, const TrainSettings& settings, bool make_quick_data) {
  std::optional<Dataset> dataset;
  if (ranks.first()) dataset = open_training_data(settings, make_quick_data);
  ranks.broadcast("");
  return dataset ? *dataset : open_training_data(settings, make_quick_data);
}

std::shared_ptr<Backend> backend_for(const TrainSettings& settings) {
  return make_backend(settings.device, settings.model.precision,
                      static_cast<int>(settings.num_threads));
}

// Each rank has its own GPU.
void choose_device(TrainSettings& settings, const Ranks& ranks) {
  if (ranks.started_as_rank() && settings.device == "cuda") {
    settings.device = fmt::format("cuda:{}", ranks.local_rank());
  }
  check_device(settings.device);
}

int start(const TrainFlags& flags, const Ranks& ranks) {
  const bool quick = flags.quick.value_or(!has_gpu() || !flags.has("data_dir"));
  TrainSettings settings = resolve_settings(flags, quick);
  choose_device(settings, ranks);
  if (quick) say_quick(settings);
  const Dataset dataset = open_in_turn(ranks, settings, quick && !flags.has("data_dir"));
  check_fits(dataset, settings, ranks);
  const std::shared_ptr<Backend> backend = backend_for(settings);
  Model model(settings.model, backend, settings.seed);
  model.initialise();

  std::string made;
  if (ranks.first()) made = make_run_folder(settings.save_dir, run_name(settings)).string();
  const RunFolder folder(ranks.broadcast(made), ranks);
  say("model: {}; {} parameters", describe(settings.model), grouped(model.trainable_count()));
  say("data: {}, {} training, {} validation, {} test items", settings.data_dir,
      grouped(dataset.train.size()), grouped(dataset.valid.size()), grouped(dataset.test.size()));
  if (ranks.several())
    say("{} ranks, {} items a step each", ranks.size(), settings.bsz / ranks.size());
  say("run: {}", folder.path.string());
  return train_and_finish(folder, dataset, model, {settings, identify(dataset), {}}, ranks,
                          *backend);
}

// Killed between the last checkpoint and the best of the same step, a run has the best in the last.
void repair_best(const RunFolder& folder, const Model& model, const CheckpointInfo& info) {
  const RunState& state = info.state;
  if (state.best_step == state.step && state.step > 0) {
    save_best(folder, model, info);
  } else if (state.best_step > 0) {
    const int64_t step = Checkpoint(folder / kBestName).info().state.step;
    if (step != state.best_step) {
      throw TrainError(fmt::format(
          "{}: expected the checkpoint of step {}, which {} names as the best, got step {}",
          (folder / kBestName).string(), state.best_step, (folder / kLastName).string(), step));
    }
  }
}

int resume(const TrainFlags& flags, const Ranks& ranks) {
  const RunFolder folder(find_run_folder(flags.resume), ranks);
  const Checkpoint checkpoint(folder / kLastName);
  CheckpointInfo info = checkpoint.info();
  info.settings = resume_settings(flags, info.settings, checkpoint.path());
  choose_device(info.settings, ranks);
  const TrainSettings& settings = info.settings;
  if (settings.step < info.state.step) {
    throw TrainError(fmt::format("--step: {} is at step {} already, got {}", checkpoint.path(),
                                 info.state.step, settings.step));
  }
  const Dataset dataset = open_training_data(settings, false);
  if (const DatasetIdentity found = identify(dataset); !(found == info.dataset)) {
    throw TrainError(fmt::format("--data_dir: {} is not the data set of {}: {}", settings.data_dir,
                                 checkpoint.path(), difference(found, info.dataset)));
  }
  check_fits(dataset, settings, ranks);
  const std::shared_ptr<Backend> backend = backend_for(settings);
  Model model(settings.model, backend, settings.seed);
  checkpoint.restore(model);
  if (ranks.first()) repair_best(folder, model, info);
  say("resuming {} after step {} of {}", folder.path.string(), info.state.step, settings.step);
  return train_and_finish(folder, dataset, model, info, ranks, *backend);
}

}  // namespace

void add_train_command(CLI::App& app, int& exit_code) {
  CLI::App* command = add_subcommand(app, "train", "Train a model");
  const auto flags = std::make_shared<TrainFlags>();
  command->footer(kAbout);
  add_train_options(*command, *flags);
  CLI::Option* quick = command->add_flag_callback(
      "--quick", [flags] { flags->quick = true; },
      "The quick setting (default without --data_dir, or without a GPU)");
  quick->group(kOwnOptions);
  command
      ->add_flag_callback(
          "--no-quick", [flags] { flags->quick = false; }, "The paper's setting")
      ->group(kOwnOptions)
      ->excludes(quick);
  command->add_option("--resume", flags->resume, "Folder of a run: go on after its last checkpoint")
      ->group(kOwnOptions);
  command->callback([flags, &exit_code] {
    catch_stop_signals();
    try {
      const Ranks ranks(find_rank_place());
      // Lines for people are the first rank's.
      if (!ranks.first() && std::freopen("/dev/null", "w", stdout) == nullptr) std::fclose(stdout);
      exit_code = flags->resume.empty() ? start(*flags, ranks) : resume(*flags, ranks);
    } catch (const DatasetError&) {
      if (stop_signal() == 0) throw;
      say("stopped while the data set was made; nothing is left behind");
      exit_code = kStoppedExitCode + stop_signal();
    }
  });
}

}  // namespace joint_recall
