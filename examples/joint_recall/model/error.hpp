#pragma once

#include <stdexcept>

namespace joint_recall {

// A configuration, batch or call the model can't work with. The text names the field, argument or
// operator, what was expected and what came.
class ModelError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace joint_recall
