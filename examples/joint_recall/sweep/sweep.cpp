#include "sweep/sweep.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <list>
#include <thread>

#include "data/files.hpp"
#include "sweep/cell_run.hpp"
#include "train/device.hpp"
#include "train/progress_bar.hpp"
#include "train/report.hpp"
#include "train/run_files.hpp"
#include "train/stop_signal.hpp"

namespace joint_recall {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPollTime = std::chrono::milliseconds(20);
constexpr double kSayProgressSeconds = 30.0;
constexpr double kStopSeconds = 5.0;  // at most, for runs to save within the time limit

double seconds_from(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Sweep {
 public:
  Sweep(const CellList& list, const SweepOptions& options)
      : options_(options), results_{list.name, list.title, {}} {
    for (const Cell& cell : list.cells) {
      results_.cells.push_back(read_result(options.folder / cell.name, cell));
      if (results_.cells.back().status != CellStatus::kDone) {
        waiting_.push_back(results_.cells.size() - 1);
      }
    }
    for (const std::string& device : options.devices) {
      free_.insert(free_.end(), static_cast<size_t>(options.cells_per_gpu), device);
    }
  }

  SweepResults run() {
    say("{} cells, {} of them done; {} at once", results_.cells.size(),
        results_.cells.size() - waiting_.size(), free_.size());
    save();
    while (true) {
      if (!stopping_ && (stop_signal() != 0 || out_of_time())) stop();
      while (!stopping_ && !waiting_.empty() && !free_.empty()) start();
      if (running_.empty()) break;
      std::this_thread::sleep_for(kPollTime);
      look();
      if (seconds_from(said_) > kSayProgressSeconds) say_progress();
    }
    save();
    return results_;
  }

 private:
  struct Running {
    size_t index;  // in results_.cells
    CellRun run;
  };

  bool out_of_time() const {
    const double margin = std::min(kStopSeconds, 0.1 * options_.time_limit);
    return options_.time_limit > 0.0 && seconds_from(start_) > options_.time_limit - margin;
  }

  void stop() {
    stopping_ = true;
    if (running_.empty()) return;
    say("{}; runs are asked to save and stop",
        stop_signal() != 0 ? "stopped by a signal" : "the time limit is reached");
    for (Running& running : running_) running.run.ask_to_stop();
  }

  void start() {
    const size_t index = waiting_.front();
    waiting_.pop_front();
    const std::string device = free_.front();
    free_.pop_front();
    CellResult& result = results_.cells[index];
    say("{}: {} on {}", result.cell.name, result.sessions == 0 ? "starts" : "goes on", device);
    running_.emplace_back(index, CellRun(options_.folder, result, options_.data_dir, device,
                                         device_name(device), options_.cells_per_gpu));
    result = running_.back().run.result();
  }

  void look() {
    for (auto running = running_.begin(); running != running_.end();) {
      const bool ended = running->run.poll();
      CellResult& result = results_.cells[running->index];
      result = running->run.result();
      if (!ended) {
        ++running;
        continue;
      }
      say_end(result);
      free_.push_back(running->run.device());
      running = running_.erase(running);
      save();
    }
  }

  static void say_end(const CellResult& result) {
    std::string text = fmt::format("{}: {} at step {}", result.cell.name, to_string(result.status),
                                   grouped(result.steps));
    if (result.status == CellStatus::kDone) {
      text += fmt::format(", test accuracy {}", percent(result.test_accuracy));
      if (result.cell.paper) text += fmt::format(" (paper {:.1f} %)", *result.cell.paper);
    }
    if (!result.message.empty()) text += ": " + result.message;
    say("{}; {} so far", text, duration_text(result.wall_seconds));
  }

  void say_progress() {
    said_ = Clock::now();
    for (const Running& running : running_) {
      say("{}: {}", running.run.result().cell.name, running.run.latest_line());
    }
  }

  void save() const { write_results(options_.folder / kResultsName, results_); }

  const SweepOptions& options_;
  SweepResults results_;
  std::deque<size_t> waiting_;
  std::deque<std::string> free_;  // places on devices
  std::list<Running> running_;
  bool stopping_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point said_ = Clock::now();
};

}  // namespace

SweepResults run_sweep(const CellList& list, const SweepOptions& options) {
  make_folders(options.folder);
  const FolderLock lock(options.folder);
  return Sweep(list, options).run();
}

}  // namespace joint_recall
