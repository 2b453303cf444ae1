// Files of a run: read whole, replaced whole, or appended to.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace joint_recall {

// All functions throw TrainErrors that name the file.

std::string load_file(const std::filesystem::path& path);

// Under the name there is, at any moment, the old content or the new one, whatever interrupts this:
// written under a temporary name, made to reach the disk, then renamed.
void replace_file(const std::filesystem::path& path, std::string_view content);

void make_folders(const std::filesystem::path& folder);

class AppendFile {
 public:
  // Opens, or makes, the file and cuts it to `keep_bytes`; a file shorter than that is an error.
  AppendFile(std::filesystem::path path, int64_t keep_bytes);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view text);
  void sync();  // returns when the disk holds it
  int64_t bytes() const { return bytes_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  int64_t bytes_ = 0;
};

}  // namespace joint_recall
