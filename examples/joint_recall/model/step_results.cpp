#include "model/step_results.hpp"

#include <cstring>
#include <utility>

namespace joint_recall {

StepResults::StepResults(Backend& backend, int64_t layers)
    : backend_(backend),
      layers_(layers),
      bytes_(sizeof(BatchScores) + static_cast<size_t>((layers + 1) / 2) * sizeof(double)),
      memory_(static_cast<char*>(backend.allocate(bytes_ * (kRoom + 1)))) {
  backend_.zero(memory_, bytes_);  // layers without a ranking loss leave 0
}

StepResults::~StepResults() { backend_.release(memory_); }

void StepResults::keep() {
  if (kept_ == kRoom) fetch();
  ++kept_;
  backend_.copy_within(memory_ + static_cast<size_t>(kept_) * bytes_, memory_, bytes_);
}

std::vector<StepResult> StepResults::take() {
  fetch();
  return std::exchange(fetched_, {});
}

void StepResults::fetch() {
  std::vector<char> numbers(static_cast<size_t>(kept_) * bytes_);
  backend_.copy_out(numbers.data(), memory_ + bytes_, numbers.size());
  for (int64_t i = 0; i < kept_; ++i) {
    const char* from = numbers.data() + static_cast<size_t>(i) * bytes_;
    BatchScores scores;
    std::vector<float> gates(static_cast<size_t>(layers_));
    std::memcpy(&scores, from, sizeof scores);
    std::memcpy(gates.data(), from + sizeof scores, gates.size() * sizeof(float));
    StepResult result{.loss = scores.loss, .accuracy = scores.accuracy, .items = scores.items};
    for (const float gate : gates) result.gate_loss += double{gate};
    fetched_.push_back(result);
  }
  kept_ = 0;
}

}  // namespace joint_recall
