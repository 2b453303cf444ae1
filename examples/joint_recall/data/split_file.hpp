#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "data/dataset.hpp"
#include "data/files.hpp"
#include "data/generator.hpp"

namespace joint_recall {

// <split>.jrd: a header of 64 bytes, then the items in order without padding, one byte a token
// (two, little-endian, when the vocabulary has more than 256). Shapes, offsets and asked positions
// follow from the sizes in the header.
inline constexpr std::int64_t kSplitHeaderBytes = 64;

std::string split_file_name(SplitName split);
std::int64_t split_file_bytes(const GeneratorArgs& args, SplitName split);

// Fills in the header of a file of split_file_bytes; the tokens come after it.
void write_split_header(const GeneratorArgs& args, SplitName split, MappedFile& file);

// Checks header and size against the arguments; throws DatasetError naming the file.
Split open_split_file(const std::filesystem::path& path, const GeneratorArgs& args, SplitName split,
                      std::uint64_t checksum, const OpenOptions& options);

}  // namespace joint_recall
