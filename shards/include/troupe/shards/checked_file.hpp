#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/file_io.hpp>
#include <troupe/shards/safetensors.hpp>
#include <troupe/shards/snapshot.hpp>

namespace troupe::shards {

/// The CRC-32C of a text and another one after it, of which only the length and the CRC-32C are known.
std::uint32_t crc32c_of_both(std::uint32_t first, std::uint32_t second, std::uint64_t second_bytes);

/// A file of a checkpoint whose bytes are read once, and are checked as they are read. Rows lie in several
/// tensors, one after the other, so that who reads rows goes through all tensors at once: each has a checksum
/// of its own, and at the end they are put together.
class CheckedFile {
 public:
  /// Reads the header. kNotFound, or kDataLoss if the file has another size, or no such header.
  static Result<CheckedFile> open(const std::filesystem::path& folder, const FileEntry& entry);
  const std::filesystem::path& path() const { return file_.path(); }
  const SafetensorsHeader& header() const { return header_; }
  /// The same of a file of which only some pieces are to be read: the head's checksum is checked now, theirs
  /// with check_piece(), and that of the whole is not. Precondition: entry.head_bytes > 0.
  static Result<CheckedFile> open_pieces(const std::filesystem::path& folder, const FileEntry& entry);
  bool in_pieces() const { return in_pieces_; }
  /// What is read from here on is a piece's.
  void begin_piece() { piece_crc_ = 0; }
  /// kDataLoss unless what has been read since has this CRC-32C.
  Result<void> check_piece(std::uint32_t crc) const;
  /// Fills `to`, a part of one tensor, from `offset` on; what was passed over since the last read in that
  /// tensor is read, too. Precondition: within a tensor reads go forward.
  Result<void> read(std::uint64_t offset, std::span<std::byte> to);
  /// Reads what is left. kDataLoss unless the file is what was written.
  Result<void> finish();

 private:
  struct Part {
    std::uint64_t at = 0;  // up to here it has been read
    std::uint64_t end = 0;
    std::uint64_t bytes = 0;
    std::uint32_t crc = 0;
  };
  CheckedFile(FileReader file, SafetensorsHeader header, std::uint32_t expected);
  Result<void> pass_over(Part& part, std::uint64_t to);

  FileReader file_;
  SafetensorsHeader header_;
  std::uint32_t expected_;
  bool in_pieces_ = false;
  std::uint32_t piece_crc_ = 0;
  std::vector<Part> parts_;  // the tensors, in the order in which they lie in the file
  std::vector<std::byte> passed_;
};

}  // namespace troupe::shards
