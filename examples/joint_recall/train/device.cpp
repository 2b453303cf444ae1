#include "train/device.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "train/error.hpp"

namespace joint_recall {
int gpu_number(const std::string& device) {
  if (device == "cpu") return -1;
  if (device == "cuda") return 0;
  const bool numbered = device.starts_with("cuda:") && device.size() > 5 && device.size() < 10 &&
                        std::all_of(device.begin() + 5, device.end(),
                                    [](unsigned char c) { return std::isdigit(c) != 0; });
  if (!numbered) {
    throw TrainError(fmt::format("--device: expected cpu, cuda or cuda:N, got '{}'", device));
  }
  return std::stoi(device.substr(5));
}

#ifdef JOINT_RECALL_WITH_CUDA
void check_device(const std::string& device) {
  const int number = gpu_number(device), gpus = count_gpus();
  if (number < gpus) return;
  throw TrainError(gpus == 0
                       ? fmt::format("--device: {} was asked for, but this machine has no GPU "
                                     "that CUDA can use; cpu would do",
                                     device)
                       : fmt::format("--device: {} was asked for, but this machine has {}, the "
                                     "last of which is cuda:{}",
                                     device, gpus == 1 ? "1 GPU" : fmt::format("{} GPUs", gpus),
                                     gpus - 1));
}

std::shared_ptr<Backend> make_backend(const std::string& device, Precision precision,
                                      int num_threads) {
  check_device(device);
  const int number = gpu_number(device);
  if (number < 0) return make_cpu_backend(num_threads);
  return make_cuda_backend(number, precision);
}

bool has_gpu() { return count_gpus() > 0; }

std::vector<std::string> all_devices() {
  std::vector<std::string> devices;
  for (int i = 0; i < count_gpus(); ++i) devices.push_back(fmt::format("cuda:{}", i));
  return devices.empty() ? std::vector<std::string>{"cpu"} : devices;
}

std::string device_name(const std::string& device) {
  const int number = gpu_number(device);
  return number < 0 ? "CPU" : gpu_name(number);
}
#else
void check_device(const std::string& device) {
  if (gpu_number(device) < 0) return;
  throw TrainError(fmt::format(
      "--device: {} was asked for, but this trainer was built without CUDA; it has cpu alone",
      device));
}

std::shared_ptr<Backend> make_backend(const std::string& device, Precision, int num_threads) {
  check_device(device);
  return make_cpu_backend(num_threads);
}

bool has_gpu() { return false; }
std::vector<std::string> all_devices() { return {"cpu"}; }
std::string device_name(const std::string&) { return "CPU"; }
#endif

std::string default_device() { return has_gpu() ? "cuda" : "cpu"; }

}  // namespace joint_recall
