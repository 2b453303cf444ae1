// Where the time of a training step goes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace joint_recall {

// A kernel of a GPU, summed over the steps looked at.
struct KernelRow {
  std::string operation;  // "": none was named
  std::string kernel;
  int64_t calls = 0;
  double seconds = 0.0;
};

// One run of a kernel, in nanoseconds since the first one's start.
struct KernelRun {
  std::string operation, kernel;
  uint64_t start = 0, end = 0;
};

// An operation, summed over the steps looked at.
struct OperationRow {
  std::string operation;
  int64_t calls = 0;
  double seconds = 0.0;  // of its kernels; on the CPU its own, without operations inside it
  double bytes = 0.0;    // that must be moved at least; 0: unknown
};

struct Profile {
  std::string title, device;
  int64_t steps = 0;
  double step_seconds = 0.0;       // a step, unwatched
  double busy_seconds = 0.0;       // a step's time in which any kernel ran
  double bytes_per_second = 0.0;   // the device's peak; 0: unknown
  std::vector<KernelRow> kernels;  // largest first
  std::vector<OperationRow> operations;
  std::vector<KernelRun> runs;  // by start; empty on the CPU
};

std::string profile_text(const Profile& profile);
std::string profile_json(const Profile& profile);
// The runs in the form that Perfetto and chrome://tracing show.
std::string profile_trace(const Profile& profile);

}  // namespace joint_recall
