// safetensors: 8 bytes with the length of a JSON header, the header, then the tensors' bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace joint_recall {

struct SafetensorsTensor {
  std::string name;
  std::string dtype;  // "F32", ...
  std::vector<int64_t> shape;
  std::string_view data;
};

struct SafetensorsFile {
  std::string bytes;  // the whole file; tensors point into it
  std::map<std::string, std::string> metadata;
  std::map<std::string, SafetensorsTensor> tensors;

  SafetensorsFile() = default;
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;
};

// The bytes of a file with the tensors in the order given. Each data must hold what dtype and shape say.
std::string format_safetensors(const std::map<std::string, std::string>& metadata,
                               const std::vector<SafetensorsTensor>& tensors);

// Throws a TrainError naming the file and what is wrong: cut short, bytes left over, a header that is
// no JSON or has unknown or doubled entries, tensors that overlap or leave gaps.
void read_safetensors(const std::filesystem::path& path, SafetensorsFile& file);

}  // namespace joint_recall
