#include "sweep/cell_run.hpp"

#include <fmt/format.h>
#include <string.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "data/dataset_error.hpp"
#include "train/commands.hpp"
#include "train/error.hpp"
#include "train/metrics_log.hpp"
#include "train/run_files.hpp"
#include "train/run_folder.hpp"

namespace joint_recall {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLogName = "log.txt";
constexpr auto kNoteTime = std::chrono::seconds(10);

// The cell's run. One that was killed before its first checkpoint has nothing to go on from and is cleared away.
std::optional<fs::path> find_run(const fs::path& folder) {
  std::optional<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (!entry.is_directory()) continue;
    if (fs::exists(entry.path() / kLastName)) {
      found = entry.path();
    } else {
      fs::remove_all(entry.path());
    }
  }
  return found;
}

// A sweep that was killed leaves runs that are still saving.
void wait_for_lock(const fs::path& run) {
  for (int tries = 0; tries < 300; ++tries) {
    try {
      const FolderLock lock(run);
      return;
    } catch (const DatasetError&) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
}

// The last whole line of a file.
std::string last_line(const fs::path& path) {
  std::error_code none;
  if (!fs::exists(path, none)) return "";
  std::string text = load_file(path);
  text.resize(text.find_last_of('\n') == std::string::npos ? 0 : text.find_last_of('\n'));
  const size_t begin = text.find_last_of('\n');
  return begin == std::string::npos ? text : text.substr(begin + 1);
}

nlohmann::json parse_or_empty(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  return json.is_object() ? json : nlohmann::json::object();
}

std::vector<std::string> run_command(const fs::path& folder, const std::optional<fs::path>& run,
                                     const CellFlags& flags, const std::string& data_dir,
                                     const std::string& device) {
  std::vector<std::string> words = {"train", "--data_dir", data_dir, "--device", device};
  if (run) {
    words.insert(words.end(), {"--resume", run->string()});
  } else {
    words.insert(words.end(), {"--no-quick", "--save_dir", folder.string()});
  }
  const std::vector<std::string> more = command_line(flags);
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

}  // namespace

CellRun::CellRun(const fs::path& sweep_folder, CellResult result, const std::string& data_dir,
                 const std::string& device, const std::string& device_name, int64_t cells_per_gpu)
    : folder_(sweep_folder / result.cell.name),
      result_(std::move(result)),
      device_(device),
      earlier_seconds_(result_.wall_seconds) {
  make_folders(folder_);
  const std::optional<fs::path> run = find_run(folder_);
  if (run) wait_for_lock(*run);
  result_.status = CellStatus::kRunning;
  result_.message.clear();
  result_.device = device_name;
  result_.cells_per_gpu = cells_per_gpu;
  ++result_.sessions;
  note_progress();
  child_ = std::make_unique<Child>(run_command(folder_, run, result_.cell.flags, data_dir, device),
                                   folder_ / kLogName);
}

bool CellRun::poll() {
  const std::optional<int> code = child_->poll();
  if (code) {
    note_end(*code);
  } else if (Clock::now() - noted_ > kNoteTime) {
    note_progress();
  }
  return code.has_value();
}

void CellRun::ask_to_stop() {
  stopping_ = true;
  child_->ask_to_stop();
}

std::string CellRun::latest_line() const { return last_line(folder_ / kLogName); }

void CellRun::note_progress() {
  noted_ = Clock::now();
  result_.wall_seconds = earlier_seconds_ + std::chrono::duration<double>(noted_ - start_).count();
  result_.time = utc_now();
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
    if (!entry.is_directory()) continue;
    const nlohmann::json timing = parse_or_empty(last_line(entry.path() / kTimingName));
    result_.steps = timing.value("step", result_.steps);
    result_.ms_per_step = timing.value("ms_per_step", result_.ms_per_step);
  }
  write_result(folder_, result_);
}

void CellRun::note_end(int code) {
  const std::optional<fs::path> run = find_run(folder_);
  if (run) {
    const RunState state = Checkpoint(*run / kLastName).info().state;
    result_.steps = state.step;
    result_.best_step = state.best_step;
    result_.valid_accuracy = state.best_accuracy;
  }
  if (code == 0 && run) {
    const nlohmann::json summary = parse_or_empty(load_file(*run / kSummaryName));
    result_.status = CellStatus::kDone;
    result_.steps = summary.value("steps", result_.steps);
    result_.best_step = summary.value("checkpoint_step", result_.best_step);
    result_.valid_accuracy = summary.value("valid_accuracy", result_.valid_accuracy);
    result_.test_accuracy = summary.value("test_accuracy", 0.0);
  } else if (stopping_ || code >= kStoppedExitCode) {
    result_.status = CellStatus::kStopped;
  } else {
    result_.status = CellStatus::kFailed;
    result_.message =
        code < 0 ? fmt::format("ended by signal {}: {}", -code, ::strsignal(-code)) : latest_line();
  }
  const int64_t steps = result_.steps;
  note_progress();
  result_.steps = steps;
  write_result(folder_, result_);
}

}  // namespace joint_recall
