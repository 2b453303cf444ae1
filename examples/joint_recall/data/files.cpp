#include "data/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "data/dataset_error.hpp"

namespace joint_recall {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kWriteBuffer = std::size_t{1} << 20;

[[noreturn]] void fail(std::string_view action, const fs::path& path, int error) {
  throw DatasetError(fmt::format("cannot {} {}: {}", action, path.string(),
                                 std::generic_category().message(error)));
}

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags, std::string_view action)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (fd_ < 0) fail(action, path, errno);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

std::byte* map(const Descriptor& file, std::size_t size, int protection, const fs::path& path) {
  if (size == 0) return nullptr;
  void* const data = ::mmap(nullptr, size, protection, MAP_SHARED, file.get(), 0);
  if (data == MAP_FAILED) fail("map", path, errno);
  return static_cast<std::byte*>(data);
}

void sync(const fs::path& path, int extra_flags = 0) {
  const Descriptor file(path, O_RDONLY | extra_flags, "open");
  // Some file systems can't sync a folder; a file always can.
  if (::fsync(file.get()) != 0 && errno != EINVAL) fail("write", path, errno);
}

}  // namespace

MappedFile MappedFile::open(const fs::path& path) {
  const Descriptor file(path, O_RDONLY, "open");
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail("read", path, errno);
  if (!S_ISREG(status.st_mode)) throw DatasetError(path.string() + " is not a regular file");
  const auto size = static_cast<std::size_t>(status.st_size);
  return {map(file, size, PROT_READ, path), size};
}

MappedFile MappedFile::create(const fs::path& path, std::int64_t bytes) {
  const Descriptor file(path, O_RDWR | O_CREAT | O_TRUNC, "create");
  // Without the room reserved, a full disk would show as SIGBUS while the mapping is written.
  const int error = ::posix_fallocate(file.get(), 0, bytes);
  if (error != 0) fail(fmt::format("reserve {} bytes for", bytes), path, error);
  const auto size = static_cast<std::size_t>(bytes);
  return {map(file, size, PROT_READ | PROT_WRITE, path), size};
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

void MappedFile::drop_from_memory() const {
  if (data_ != nullptr) ::madvise(data_, size_, MADV_DONTNEED);
}

FolderLock::FolderLock(const fs::path& folder)
    : fd_(Descriptor(folder, O_RDONLY | O_DIRECTORY, "open").release()) {
  // Some network file systems have no locks for folders: go on without.
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(fd_);
    throw DatasetError("another program is writing to the folder " + folder.string());
  }
}

FolderLock::~FolderLock() { ::close(fd_); }

fs::path NewFiles::temporary(std::string_view name) {
  const fs::path path = folder_ / name;
  if (path_exists(path)) {
    throw DatasetError(path.string() + " already exists; it is not overwritten");
  }
  files_.push_back({folder_ / fmt::format(".{}.tmp", name), path});
  return files_.back().temporary;
}

void NewFiles::commit() {
  for (const File& file : files_) sync(file.temporary);
  for (File& file : files_) {
    std::error_code error;
    fs::rename(file.temporary, file.path, error);
    if (error) fail("rename to", file.path, error.value());
    file.renamed = true;
  }
  sync(folder_, O_DIRECTORY);
  committed_ = true;
}

NewFiles::~NewFiles() {
  if (committed_) return;
  for (const File& file : files_) {
    std::error_code ignored;
    fs::remove(file.renamed ? file.path : file.temporary, ignored);
  }
}

FileWriter::FileWriter(fs::path path)
    : path_(std::move(path)),
      fd_(Descriptor(path_, O_WRONLY | O_CREAT | O_TRUNC, "create").release()) {
  buffer_.reserve(kWriteBuffer);
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void FileWriter::flush() {
  std::size_t written = 0;
  while (written < buffer_.size()) {
    const ssize_t count = ::write(fd_, buffer_.data() + written, buffer_.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("write", path_, errno);
    written += static_cast<std::size_t>(count);
  }
  buffer_.clear();
}

void FileWriter::close() {
  flush();
  if (::close(std::exchange(fd_, -1)) != 0) fail("write", path_, errno);
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("make the folder", folder, error.value());
}

bool path_exists(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::none) fail("look at", path, error.value());
  return fs::exists(status);
}

}  // namespace joint_recall
