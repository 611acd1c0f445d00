#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include <troupe/runtime/result.hpp>
#include <troupe/runtime/unique_fd.hpp>

namespace troupe::shards {

/// Writes parts of a file. The first fault is kept and reported by finish(); a file that was not finished is
/// removed.
class FileWriter {
 public:
  explicit FileWriter(std::filesystem::path path);
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  ~FileWriter();

  void write(std::uint64_t offset, std::span<const std::byte> bytes);
  /// The first fault so far.
  const Result<void>& result() const { return result_; }
  /// Everything is on the disk afterwards.
  Result<void> finish();

 private:
  std::filesystem::path path_;
  UniqueFd file_;
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
  FileReader(std::filesystem::path path, UniqueFd file, std::uint64_t size)
      : path_(std::move(path)), file_(std::move(file)), size_(size) {}

  std::filesystem::path path_;
  UniqueFd file_;
  std::uint64_t size_;
};

}  // namespace troupe::shards
