// On the CPU: how long each named operation took. What it contains counts for itself.
#include <chrono>
#include <map>

#include "model/operation.hpp"
#include "profile/profiler.hpp"

namespace joint_recall {
namespace {

class CpuProfiler : public Profiler, public OperationWatcher {
 public:
  void measure(const std::function<void()>& steps, Profile& profile) override {
    rows_.clear();
    open_ = {""};
    latest_ = Clock::now();
    watch_operations(this);
    steps();
    watch_operations(nullptr);
    charge();
    for (auto& [name, row] : rows_) {
      row.operation = name;
      profile.operations.push_back(row);
    }
  }

  void begin(const Operation& operation) override {
    charge();
    open_.push_back(operation.name);
    OperationRow& row = rows_[operation.name];
    ++row.calls;
    row.bytes += operation.bytes;
  }

  void end() override {
    charge();
    open_.pop_back();
  }

 private:
  using Clock = std::chrono::steady_clock;

  // The time since the last look belongs to the innermost operation.
  void charge() {
    const Clock::time_point now = Clock::now();
    rows_[open_.back()].seconds += std::chrono::duration<double>(now - latest_).count();
    latest_ = now;
  }

  std::map<std::string, OperationRow> rows_;
  std::vector<std::string> open_;
  Clock::time_point latest_;
};

}  // namespace

std::unique_ptr<Profiler> make_cpu_profiler() { return std::make_unique<CpuProfiler>(); }

}  // namespace joint_recall
