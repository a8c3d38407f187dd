// Files: mapped reading, and writing that survives a kill or a full disk.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace tessera {

/// A read-only memory map of a whole file. Throws Error naming path and reason.
class MappedFile final {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] std::string_view bytes() const { return {data_, size_}; }
  /// Tells the system that this range has been read: it stops counting as this process's memory, and can be read again.
  void release(size_t offset, size_t length) const;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const char* data_ = nullptr;
  size_t size_ = 0;
};

/// Sequential writer over a file descriptor: short writes, ENOSPC and EIO become an Error that names the file.
class FileWriter final {
 public:
  explicit FileWriter(const std::filesystem::path& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  void write(const void* data, size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// fsync and close; without it the destructor closes silently.
  void finish();

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

[[nodiscard]] std::string read_text_file(const std::filesystem::path& path);

/// Writes a temporary sibling, syncs it, renames it into place and syncs the folder: readers see old or new, never half.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

void sync_directory(const std::filesystem::path& directory);

/// Creates the directory and its parents; an Error names the path and the reason.
void make_directories(const std::filesystem::path& directory);

}  // namespace tessera
