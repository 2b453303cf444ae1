#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "array.hpp"

namespace hax_test {

// A little-endian safetensors file, read whole. Errors throw std::runtime_error.
class Safetensors {
 public:
  explicit Safetensors(const std::string& path);

  std::vector<std::string> names() const;  // in alphabetical order
  bool contains(const std::string& name) const { return entries_.count(name) != 0; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // F64, F32, F16, BF16, U8, I32 and I64 are converted to fp64.
  Array load(const std::string& name) const;
  // Absent where the file has no such tensor.
  Array load_if_present(const std::string& name) const;

 private:
  struct Entry {
    std::string dtype;
    std::vector<int64_t> shape;
    uint64_t begin = 0, end = 0;
  };
  std::string path_;
  std::vector<unsigned char> bytes_;  // what follows the header
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

// Full path of a file in tests/golden.
std::string golden_path(const std::string& name);

}  // namespace hax_test
