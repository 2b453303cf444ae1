#pragma once

#include <stdexcept>

namespace joint_recall {

// What the trainer can't go on with: an option, a file, a checkpoint. The text names it, what was
// expected and what came.
class TrainError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace joint_recall
