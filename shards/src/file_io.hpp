#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include <troupe/runtime/result.hpp>

namespace troupe::shards {

/// A file descriptor that closes itself.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();
  int get() const { return fd_; }
  int release();

 private:
  int fd_;
};

/// Writes a file front to back through a fixed buffer, counting bytes and their CRC-32C. The first fault is
/// kept and reported by finish(); a file that was not finished is removed.
class FileWriter {
 public:
  explicit FileWriter(std::filesystem::path path);
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  ~FileWriter();

  void write(std::span<const std::byte> bytes);
  template <class T>
  void write_values(const T* values, std::size_t count) {
    write(std::as_bytes(std::span(values, count)));
  }
  /// Everything is on the disk afterwards.
  Result<void> finish();
  std::uint64_t bytes() const { return bytes_; }
  std::uint32_t crc32c() const { return crc_; }

 private:
  void flush();

  std::filesystem::path path_;
  FileDescriptor file_;
  std::vector<std::byte> buffer_;
  std::uint64_t bytes_ = 0;
  std::uint32_t crc_ = 0;
  Result<void> result_;
  bool finished_ = false;
};

/// Reads parts of a file whose size was taken when it was opened.
class FileReader {
 public:
  /// kNotFound if it is missing; other errors by errno.
  static Result<FileReader> open(const std::filesystem::path& path);
  const std::filesystem::path& path() const { return path_; }
  std::uint64_t size() const { return size_; }
  /// Fills `to` from `offset` on. kDataLoss if the file ends before.
  Result<void> read(std::uint64_t offset, std::span<std::byte> to) const;
  /// The CRC-32C of the whole file.
  Result<std::uint32_t> checksum() const;

 private:
  FileReader(std::filesystem::path path, FileDescriptor file, std::uint64_t size)
      : path_(std::move(path)), file_(std::move(file)), size_(size) {}

  std::filesystem::path path_;
  FileDescriptor file_;
  std::uint64_t size_;
};

}  // namespace troupe::shards
