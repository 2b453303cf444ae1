#include "train/device.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "train/error.hpp"

namespace joint_recall {

void check_device(const std::string& device) {
  if (device == "cpu") return;
  const bool numbered = device.starts_with("cuda:") && device.size() > 5 && device.size() < 15 &&
                        std::all_of(device.begin() + 5, device.end(),
                                    [](unsigned char c) { return std::isdigit(c) != 0; });
  if (device != "cuda" && !numbered) {
    throw TrainError(fmt::format("--device: expected cpu, cuda or cuda:N, got '{}'", device));
  }
  throw TrainError(fmt::format(
      "--device: {} was asked for, but this trainer was built without CUDA; it has cpu alone",
      device));
}

std::shared_ptr<Backend> make_backend(const std::string& device, int num_threads) {
  check_device(device);
  return make_cpu_backend(num_threads);
}

bool has_gpu() { return false; }

}  // namespace joint_recall
