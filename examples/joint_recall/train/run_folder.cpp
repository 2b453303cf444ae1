#include "train/run_folder.hpp"

#include <fmt/format.h>

#include "train/error.hpp"
#include "train/run_files.hpp"

namespace joint_recall {

namespace fs = std::filesystem;

fs::path make_run_folder(const fs::path& save_dir, const std::string& name) {
  make_folders(save_dir);
  for (int number = 1;; ++number) {
    const fs::path folder = save_dir / (number == 1 ? name : fmt::format("{}_{}", name, number));
    std::error_code error;
    if (fs::create_directory(folder, error)) return folder;
    if (error && error != std::errc::file_exists) {
      throw TrainError(
          fmt::format("cannot make the folder {}: {}", folder.string(), error.message()));
    }
  }
}

fs::path find_run_folder(const fs::path& resume) {
  std::error_code none;
  if (!fs::exists(resume, none)) {
    throw TrainError(fmt::format("--resume: there is no {}", resume.string()));
  }
  if (fs::is_directory(resume, none)) {
    if (!fs::exists(resume / kLastName, none)) {
      throw TrainError(fmt::format("--resume: {} is no run's folder: there is no {} in it",
                                   resume.string(), kLastName));
    }
    return resume;
  }
  // From an older checkpoint, what came after it would have to be overwritten.
  if (resume.filename() != kLastName) {
    throw TrainError(fmt::format("--resume: expected a run's folder or the {} in it, got {}",
                                 kLastName, resume.string()));
  }
  return resume.has_parent_path() ? resume.parent_path() : ".";
}

}  // namespace joint_recall
