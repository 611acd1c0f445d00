#include "flat.hpp"

namespace troupe::rpc::flat {

void Writer::grow(std::size_t words) {
  const std::size_t needed = used_ + words;
  if (needed > kMaxCount) throw std::length_error("its values are too long for a message");
  const std::size_t capacity = std::min(std::max(needed, std::size_t{capacity_} * 4), kMaxCount);
  Buffer larger = pool_.allocate(kTableBytes + capacity * kWord);
  std::memcpy(larger.data() + kTableBytes, base_, std::size_t{used_} * kWord);
  buffer_ = std::move(larger);
  base_ = buffer_.data() + kTableBytes;
  capacity_ = static_cast<std::uint32_t>((buffer_.size() - kTableBytes) / kWord);
}

bool Reader::open(std::span<const std::byte> message) {
  words_ = nullptr;
  if (message.size() < kTableBytes + kWord) return false;
  std::uint32_t table[2];
  std::memcpy(table, message.data(), sizeof table);
  if (table[0] != 0 || std::size_t{table[1]} * kWord > message.size() - kTableBytes) return false;
  words_ = message.data() + kTableBytes;
  count_ = table[1];
  budget_ = 1024 + 16 * count_;
  return true;
}

bool Reader::read(const StructView& from, unsigned pointer, StructsView& view) {
  view = {};
  if (is_null(from, pointer)) return true;
  const std::byte* const at = slot(from, pointer);
  const std::uint64_t list = load(at);
  if ((list & 3) != 1 || ((list >> 32) & 7) != static_cast<std::uint8_t>(ElementSize::kComposite))
    return false;
  const std::size_t words = list >> 35;
  const std::byte* const tag_at = target(at, list, words + 1);
  if (!tag_at) return false;
  const std::uint64_t tag = load(tag_at);
  const std::uint32_t count = static_cast<std::uint32_t>(tag) >> 2;
  const Layout layout{static_cast<std::uint16_t>(tag >> 32), static_cast<std::uint16_t>(tag >> 48)};
  if ((tag & 3) != 0 || std::uint64_t{count} * layout.words() > words) return false;
  if (!charge(std::max<std::size_t>(words, count) + 1)) return false;
  view = {tag_at + kWord, count, layout};
  return true;
}

bool Reader::read(const StructView& from, unsigned pointer, std::string_view& text) {
  text = {};
  std::span<const std::byte> bytes;
  if (!read(from, pointer, bytes)) return false;
  if (bytes.empty()) return is_null(from, pointer);
  if (bytes.back() != std::byte{0}) return false;
  text = {reinterpret_cast<const char*>(bytes.data()), bytes.size() - 1};
  return true;
}

bool Reader::read_list(const StructView& from, unsigned pointer, ElementSize size,
                       std::span<const std::byte>& bytes) {
  bytes = {};
  if (is_null(from, pointer)) return true;
  const std::byte* const at = slot(from, pointer);
  const std::uint64_t list = load(at);
  if ((list & 3) != 1 || ((list >> 32) & 7) != static_cast<std::uint8_t>(size)) return false;
  const std::size_t length = (list >> 35) * (size == ElementSize::kByte ? 1 : kWord);
  const std::size_t words = (length + kWord - 1) / kWord;
  const std::byte* const data = target(at, list, words);
  if (!data || !charge(words + 1)) return false;
  bytes = {data, length};
  return true;
}

}  // namespace troupe::rpc::flat
