#include <troupe/shards/checked_file.hpp>

#include <algorithm>
#include <cassert>
#include <string>

#include <troupe/runtime/checksum.hpp>

#include "snapshot_format.hpp"

namespace troupe::shards {
namespace {

// Polynomials over GF(2) modulo Castagnoli's, with their bits reversed: x^0 is the top bit.
constexpr std::uint32_t kModulus = 0x82f63b78U;
constexpr std::uint32_t kOne = 1U << 31;
constexpr std::uint32_t kByte = kOne >> 8;  // x^8

std::uint32_t product(std::uint32_t a, std::uint32_t b) {
  std::uint32_t sum = 0;
  for (std::uint32_t bit = kOne; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) sum ^= b;
    b = (b >> 1) ^ ((b & 1U) != 0 ? kModulus : 0U);
  }
  return sum;
}

}  // namespace

std::uint32_t crc32c_of_both(std::uint32_t first, std::uint32_t second, std::uint64_t second_bytes) {
  std::uint32_t shift = kOne;  // x^(8 * second_bytes), by squaring
  for (std::uint32_t square = kByte; second_bytes != 0; second_bytes >>= 1) {
    if ((second_bytes & 1U) != 0) shift = product(shift, square);
    square = product(square, square);
  }
  return product(first, shift) ^ second;
}

CheckedFile::CheckedFile(FileReader file, SafetensorsHeader header, std::uint32_t expected)
    : file_(std::move(file)), header_(std::move(header)), expected_(expected) {
  for (const SafetensorsEntry& tensor : header_.entries)
    parts_.push_back({tensor.begin, tensor.begin + tensor.bytes, tensor.bytes, 0});
}

Result<CheckedFile> CheckedFile::open(const std::filesystem::path& folder, const FileEntry& entry) {
  Result<FileReader> file = FileReader::open(folder / entry.file);
  if (!file) return file.error();
  if (file->size() != entry.bytes) {
    return Error{Code::kDataLoss, file->path().string() + " has " + std::to_string(file->size()) +
                                      " bytes, expected " + std::to_string(entry.bytes)};
  }
  Result<SafetensorsHeader> header = read_safetensors_header(*file);
  if (!header) return header.error();
  return CheckedFile(std::move(*file), std::move(*header), entry.crc32c);
}

Result<CheckedFile> CheckedFile::open_pieces(const std::filesystem::path& folder, const FileEntry& entry) {
  Result<CheckedFile> file = open(folder, entry);
  if (!file) return file;
  file->in_pieces_ = true;
  file->passed_.resize(std::min(entry.head_bytes, file->file_.size()));
  if (Result<void> done = file->read(0, file->passed_); !done) return done.error();
  if (Result<void> good = file->check_piece(entry.head_crc32c); !good) return good.error();
  return file;
}

Result<void> CheckedFile::check_piece(std::uint32_t crc) const {
  if (crc == piece_crc_) return {};
  return Error{Code::kDataLoss, path().string() + " is corrupt: the CRC-32C of a part is " +
                                    std::to_string(piece_crc_) + ", expected " + std::to_string(crc)};
}

Result<void> CheckedFile::pass_over(Part& part, std::uint64_t to) {
  while (part.at < to) {
    passed_.resize(std::min(kChunkBytes, to - part.at));
    if (Result<void> done = file_.read(part.at, passed_); !done) return done;
    part.crc = crc32c(passed_, part.crc);
    part.at += passed_.size();
  }
  return {};
}

Result<void> CheckedFile::read(std::uint64_t offset, std::span<std::byte> to) {
  if (to.empty()) return {};
  if (in_pieces_) {
    if (Result<void> done = file_.read(offset, to); !done) return done;
    piece_crc_ = crc32c(to, piece_crc_);
    return {};
  }
  const auto part = std::find_if(parts_.begin(), parts_.end(), [&](const Part& each) {
    return each.end > offset && each.end - each.bytes <= offset;
  });
  assert(part != parts_.end() && part->at <= offset && to.size() <= part->end - offset);
  if (Result<void> done = pass_over(*part, offset); !done) return done;
  if (Result<void> done = file_.read(offset, to); !done) return done;
  part->crc = crc32c(to, part->crc);
  part->at = offset + to.size();
  return {};
}

Result<void> CheckedFile::finish() {
  if (in_pieces_) return {};
  std::uint32_t crc = header_.crc32c;
  for (Part& part : parts_) {
    if (Result<void> done = pass_over(part, part.end); !done) return done;
    crc = crc32c_of_both(crc, part.crc, part.bytes);
  }
  if (crc == expected_) return {};
  return Error{Code::kDataLoss, path().string() + " is corrupt: its CRC-32C is " + std::to_string(crc) +
                                    ", expected " + std::to_string(expected_)};
}

}  // namespace troupe::shards
