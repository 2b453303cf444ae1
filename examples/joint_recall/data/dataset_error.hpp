#pragma once

#include <stdexcept>

namespace joint_recall {

// Everything that can be wrong with a data set or its arguments. The text names the file or
// argument, what was expected and what was found.
class DatasetError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace joint_recall
