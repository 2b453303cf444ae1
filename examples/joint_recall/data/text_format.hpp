#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "data/generator.hpp"

namespace joint_recall {

// The official generator's six text files: one padded item a line, tokens or mask bits joined by
// single spaces.
struct TextFiles {
  std::filesystem::path folder = {};
  std::int64_t max_n_context = 0;
  std::int64_t max_n_key = 0;
  std::int64_t seed = 0;

  std::string prefix() const;                      // "max_n_context_16_max_n_key_16_seed_1"
  std::string inputs_name(SplitName split) const;  // "<prefix>_train_inputs.txt"
  std::string mask_name(SplitName split) const;    // "<prefix>_train_mask.txt"
};

// The sets whose train inputs lie in `folder`, sorted by name.
std::vector<TextFiles> find_text_files(const std::filesystem::path& folder);

// Reads and checks every line. The values' number, the smallest sizes and the counts, which no file
// name tells, follow from the contents. Throws DatasetError with the file and line.
Dataset read_text(const TextFiles& files, const Progress& progress = {});

// Writes the six files, byte for byte what the official generator writes for the same arguments.
// A file that already exists is an error.
TextFiles export_text(const Dataset& dataset, const std::filesystem::path& folder,
                      const Progress& progress = {});

}  // namespace joint_recall
