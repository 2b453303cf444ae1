// Measures what runs while training steps are made.
#pragma once

#include <functional>
#include <memory>

#include "profile/profile.hpp"

namespace joint_recall {

// Watches from its making on, so that it knows what was recorded for replaying.
class Profiler {
 public:
  virtual ~Profiler() = default;
  // Fills in kernels, operations and busy_seconds from what `steps` runs; it waits for all of it.
  virtual void measure(const std::function<void()>& steps, Profile& profile) = 0;
};

std::unique_ptr<Profiler> make_cpu_profiler();
#ifdef JOINT_RECALL_WITH_CUDA
// Throws a TrainError where CUPTI isn't there.
std::unique_ptr<Profiler> make_cuda_profiler();
double memory_bytes_per_second(int device);  // the peak; 0: unknown
#endif

}  // namespace joint_recall
