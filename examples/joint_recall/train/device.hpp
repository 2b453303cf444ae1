// Where training runs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/backend.hpp"

namespace joint_recall {

// N of cuda:N, 0 of cuda, -1 of cpu. Throws a TrainError for a name that is no device.
int gpu_number(const std::string& device);
// Throws a TrainError for a name that is no device, or a device that this trainer hasn't got.
void check_device(const std::string& device);
std::shared_ptr<Backend> make_backend(const std::string& device, Precision precision,
                                      int num_threads);
bool has_gpu();
std::vector<std::string> all_devices();              // all GPUs, or the CPU where there is none
std::string device_name(const std::string& device);  // "NVIDIA H100 80GB HBM3", "CPU"
// cuda where there is a GPU that can be used, otherwise cpu.
std::string default_device();

}  // namespace joint_recall
