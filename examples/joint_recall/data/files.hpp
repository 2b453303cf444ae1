#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace joint_recall {

// A whole file in memory by mmap. Errors are DatasetErrors that name the file.
class MappedFile {
 public:
  static MappedFile open(const std::filesystem::path& path);
  // Makes or empties the file, reserves its room on the disk and maps it for writing.
  static MappedFile create(const std::filesystem::path& path, std::int64_t bytes);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::span<std::byte> writable_bytes() { return {data_, size_}; }  // only after create()
  void drop_from_memory() const;  // pages come back from the file when touched again

 private:
  MappedFile(std::byte* data, std::size_t size) : data_(data), size_(size) {}

  std::byte* data_;
  std::size_t size_;
};

// Held while a folder is written; a second writer gets a DatasetError at once.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock();

 private:
  int fd_;
};

// New files that appear under their names all together: each is written under temporary(name), then
// commit() makes the disk hold them and renames them in the order added. Without a commit, or when
// it fails, none remains. A file that already exists is an error.
class NewFiles {
 public:
  explicit NewFiles(std::filesystem::path folder) : folder_(std::move(folder)) {}
  NewFiles(const NewFiles&) = delete;
  NewFiles& operator=(const NewFiles&) = delete;
  ~NewFiles();

  std::filesystem::path temporary(std::string_view name);
  void commit();

 private:
  struct File {
    std::filesystem::path temporary;
    std::filesystem::path path;
    bool renamed = false;
  };

  std::filesystem::path folder_;
  std::vector<File> files_;
  bool committed_ = false;
};

// Writes a file through a buffer; throws DatasetError when the disk is full and the like.
class FileWriter {
 public:
  explicit FileWriter(std::filesystem::path path);
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  ~FileWriter();

  void write(std::string_view text) {
    if (buffer_.size() + text.size() > buffer_.capacity()) flush();
    buffer_.insert(buffer_.end(), text.begin(), text.end());
  }
  void close();

 private:
  void flush();

  std::filesystem::path path_;
  int fd_;
  std::vector<char> buffer_;
};

void make_folder(const std::filesystem::path& folder);
bool path_exists(const std::filesystem::path& path);

}  // namespace joint_recall
