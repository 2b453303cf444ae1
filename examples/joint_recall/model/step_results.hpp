// Numbers of micro-steps, kept on the device until the host asks for them.
#pragma once

#include <vector>

#include "model/backend.hpp"
#include "model/model.hpp"

namespace joint_recall {

class StepResults {
 public:
  StepResults(Backend& backend, int64_t layers);
  ~StepResults();
  StepResults(const StepResults&) = delete;
  StepResults& operator=(const StepResults&) = delete;

  // Where a micro-step leaves its numbers, on the device; the same place for all.
  BatchScores* latest() const { return reinterpret_cast<BatchScores*>(memory_); }
  float* gate_loss(size_t layer) const {
    return reinterpret_cast<float*>(memory_ + sizeof(BatchScores)) + layer;
  }
  // Queues that they be kept.
  void keep();
  // All that were kept since the call before; waits for them.
  std::vector<StepResult> take();

 private:
  static constexpr int64_t kRoom = 1024;  // micro-steps between two looks of the host

  void fetch();

  Backend& backend_;
  int64_t layers_;
  size_t bytes_;  // of a micro-step's numbers
  char* memory_;  // the latest, then room for kRoom
  int64_t kept_ = 0;
  std::vector<StepResult> fetched_;
};

}  // namespace joint_recall
