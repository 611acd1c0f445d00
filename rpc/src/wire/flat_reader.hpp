#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "wire/flat.hpp"

namespace troupe::rpc::flat {

/// A struct in a segment. What lies beyond its sections reads as zero, as for structs of older writers.
struct StructView {
  const std::byte* words = nullptr;
  Layout layout{};

  template <class T>
  T get(std::size_t byte) const {
    T value{};
    if (byte + sizeof(T) <= layout.data * kWord) std::memcpy(&value, words + byte, sizeof value);
    return value;
  }
};

/// A struct of which it is known already that its data section has all fields that are asked for.
struct WholeStruct {
  const std::byte* words;

  template <class T>
  T get(std::size_t byte) const {
    T value;
    std::memcpy(&value, words + byte, sizeof value);
    return value;
  }
};

/// A list of structs.
struct StructsView {
  const std::byte* words = nullptr;
  std::uint32_t count = 0;
  Layout layout{};

  /// Precondition: index < count.
  StructView operator[](std::uint32_t index) const {
    return {words + index * layout.words() * kWord, layout};
  }
};

/// The segment of a message that nobody has checked. Everything is checked when it is read: functions
/// return false for what is malformed, and give an empty value for a null pointer. What is read is charged to
/// a budget, so that pointers to one place again and again cannot make a small message into endless work.
class Reader {
 public:
  Reader() = default;
  /// False: not a message of one segment. `message` is 8-byte aligned.
  bool open(std::span<const std::byte> message);

  bool root(StructView& view) { return words_ != nullptr && count_ > 0 && read_struct(words_, view); }
  bool read(const StructView& from, unsigned pointer, StructView& view) {
    view = {};
    return pointer >= from.layout.pointers || read_struct(slot(from, pointer), view);
  }
  bool read(const StructView& from, unsigned pointer, StructsView& view);
  bool read(const StructView& from, unsigned pointer, std::span<const std::byte>& bytes) {
    return read_list(from, pointer, ElementSize::kByte, bytes);
  }
  bool read(const StructView& from, unsigned pointer, std::string_view& text);
  /// A list of 64-bit numbers.
  bool read_numbers(const StructView& from, unsigned pointer, std::span<const std::byte>& words) {
    return read_list(from, pointer, ElementSize::kEightBytes, words);
  }
  static bool is_null(const StructView& from, unsigned pointer) {
    return pointer >= from.layout.pointers || load(slot(from, pointer)) == 0;
  }

 private:
  static const std::byte* slot(const StructView& from, unsigned pointer) {
    return from.words + (std::size_t{from.layout.data} + pointer) * kWord;
  }
  static std::uint64_t load(const std::byte* at) {
    std::uint64_t word = 0;
    std::memcpy(&word, at, sizeof word);
    return word;
  }
  bool charge(std::size_t words) {
    if (words > budget_) return false;
    budget_ -= words;
    return true;
  }
  /// Where a pointer points to, if `words` words lie there.
  const std::byte* target(const std::byte* at, std::uint64_t pointer, std::size_t words) const {
    const auto offset = static_cast<std::int32_t>(static_cast<std::uint32_t>(pointer)) >> 2;
    const std::int64_t first = (at - words_) / static_cast<std::int64_t>(kWord) + 1 + offset;
    if (first < 0 || static_cast<std::uint64_t>(first) + words > count_) return nullptr;
    return words_ + static_cast<std::size_t>(first) * kWord;
  }
  bool read_struct(const std::byte* at, StructView& view) {
    const std::uint64_t pointer = load(at);
    view = {};
    if (pointer == 0) return true;
    if ((pointer & 3) != 0) return false;
    const Layout layout{static_cast<std::uint16_t>(pointer >> 32), static_cast<std::uint16_t>(pointer >> 48)};
    const std::byte* const words = target(at, pointer, layout.words());
    if (!words || !charge(layout.words() + 1)) return false;
    view = {words, layout};
    return true;
  }
  bool read_list(const StructView& from, unsigned pointer, ElementSize size,
                 std::span<const std::byte>& bytes);

  const std::byte* words_ = nullptr;
  std::size_t count_ = 0;
  std::size_t budget_ = 0;
};

inline bool Reader::open(std::span<const std::byte> message) {
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

inline bool Reader::read(const StructView& from, unsigned pointer, StructsView& view) {
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
  // Elements of no words cost a message nothing, and its reader as much as others; nobody writes such.
  if ((tag & 3) != 0 || std::uint64_t{count} * std::max<std::size_t>(layout.words(), 1) > words) return false;
  if (!charge(words + 1)) return false;
  view = {tag_at + kWord, count, layout};
  return true;
}

inline bool Reader::read(const StructView& from, unsigned pointer, std::string_view& text) {
  text = {};
  std::span<const std::byte> bytes;
  if (!read(from, pointer, bytes)) return false;
  if (bytes.empty()) return is_null(from, pointer);
  if (bytes.back() != std::byte{0}) return false;
  text = {reinterpret_cast<const char*>(bytes.data()), bytes.size() - 1};
  return true;
}

inline bool Reader::read_list(const StructView& from, unsigned pointer, ElementSize size,
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
