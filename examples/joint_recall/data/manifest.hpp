#pragma once

#include <array>
#include <cstdint>
#include <filesystem>

#include "data/generator.hpp"

namespace joint_recall {

inline constexpr const char* kManifestName = "dataset.json";

// dataset.json: the arguments and what the split files hold. It is written last: a folder with it
// is complete.
struct Manifest {
  struct SplitEntry {
    std::int64_t duplicates = 0;
    std::uint64_t checksum = 0;  // XXH64 of the whole split file
  };

  GeneratorArgs args;
  std::array<SplitEntry, 3> splits;
};

void write_manifest(const std::filesystem::path& path, const Manifest& manifest);

// Throws DatasetError naming the file and the field when anything is missing, malformed or
// disagrees with the arguments.
Manifest read_manifest(const std::filesystem::path& path);

}  // namespace joint_recall
