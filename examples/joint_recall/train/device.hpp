// Where training runs.
#pragma once

#include <memory>
#include <string>

#include "model/backend.hpp"

namespace joint_recall {

// Throws a TrainError for a name that is no device, or a device that this trainer hasn't got.
void check_device(const std::string& device);
std::shared_ptr<Backend> make_backend(const std::string& device, Precision precision,
                                      int num_threads);
bool has_gpu();
// cuda where there is a GPU that can be used, otherwise cpu.
std::string default_device();

}  // namespace joint_recall
