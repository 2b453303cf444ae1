// The folder a run writes to.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "data/files.hpp"
#include "ranks/ranks.hpp"

namespace joint_recall {

inline constexpr const char* kBestName = "best.safetensors";
inline constexpr const char* kLastName = "last.safetensors";
inline constexpr const char* kSummaryName = "summary.json";
inline constexpr const char* kCurvesName = "curves.svg";
inline constexpr const char* kAttentionName = "attention.svg";
inline constexpr const char* kItemName = "item.svg";

// Held by one program at a time; of several ranks, by the first, which alone writes to it.
struct RunFolder {
  std::filesystem::path path;
  std::optional<FolderLock> lock;

  RunFolder(const std::filesystem::path& folder, const Ranks& ranks) : path(folder) {
    if (ranks.first()) lock.emplace(folder);
  }
  std::filesystem::path operator/(const char* name) const { return path / name; }
};

// Makes <save_dir>/<name>, or <name>_2, <name>_3, ... where there are runs of that name already.
std::filesystem::path make_run_folder(const std::filesystem::path& save_dir,
                                      const std::string& name);

// The folder that `--resume` means: a run's folder, or the latest checkpoint in it. Throws a
// TrainError for anything else.
std::filesystem::path find_run_folder(const std::filesystem::path& resume);

}  // namespace joint_recall
