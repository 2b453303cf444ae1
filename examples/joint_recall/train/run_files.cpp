#include "train/run_files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "train/error.hpp"

namespace joint_recall {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(std::string_view action, const fs::path& path, int error) {
  throw TrainError(fmt::format("cannot {} {}: {}", action, path.string(),
                               std::generic_category().message(error)));
}

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags, std::string_view action)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (fd_ < 0) fail(action, path, errno);
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

void write_all(int fd, std::string_view content, const fs::path& path) {
  while (!content.empty()) {
    const ssize_t count = ::write(fd, content.data(), content.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("write", path, errno);
    content.remove_prefix(static_cast<size_t>(count));
  }
}

int64_t size_of(int fd, const fs::path& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) fail("read", path, errno);
  if (!S_ISREG(status.st_mode)) {
    throw TrainError(fmt::format("{} is not a regular file", path.string()));
  }
  return status.st_size;
}

// Some file systems can't sync a folder; a file always can.
void sync_to_disk(int fd, const fs::path& path) {
  if (::fsync(fd) != 0 && errno != EINVAL) fail("write", path, errno);
}

}  // namespace

std::string load_file(const fs::path& path) {
  const Descriptor file(path, O_RDONLY | O_NONBLOCK, "open");
  std::string content(static_cast<size_t>(size_of(file.get(), path)), '\0');
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t count = ::read(file.get(), content.data() + done, content.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("read", path, errno);
    if (count == 0) break;
    done += static_cast<size_t>(count);
  }
  content.resize(done);
  return content;
}

void replace_file(const fs::path& path, std::string_view content) {
  const fs::path folder = path.has_parent_path() ? path.parent_path() : ".";
  const fs::path temporary = folder / fmt::format(".{}.tmp", path.filename().string());
  try {
    const Descriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC, "create");
    write_all(file.get(), content, path);
    sync_to_disk(file.get(), path);
    if (::rename(temporary.c_str(), path.c_str()) != 0) fail("replace", path, errno);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  const Descriptor opened(folder, O_RDONLY | O_DIRECTORY, "open");
  sync_to_disk(opened.get(), folder);
}

void make_folders(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("make the folder", folder, error.value());
}

AppendFile::AppendFile(fs::path path, int64_t keep_bytes) : path_(std::move(path)) {
  Descriptor file(path_, O_WRONLY | O_CREAT | O_APPEND, "open");
  const int64_t found = size_of(file.get(), path_);
  if (found < keep_bytes) {
    throw TrainError(
        fmt::format("{}: expected at least the {} bytes the checkpoint tells of, got {}",
                    path_.string(), keep_bytes, found));
  }
  if (::ftruncate(file.get(), keep_bytes) != 0) fail("cut", path_, errno);
  bytes_ = keep_bytes;
  fd_ = file.release();
}

AppendFile::~AppendFile() { ::close(fd_); }

void AppendFile::append(std::string_view text) {
  write_all(fd_, text, path_);
  bytes_ += static_cast<int64_t>(text.size());
}

void AppendFile::sync() { sync_to_disk(fd_, path_); }

}  // namespace joint_recall
