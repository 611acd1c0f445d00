#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string_view>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/memory_pool.hpp>

#include "head_pool.hpp"

/// Cap'n Proto's encoding (https://capnproto.org/encoding.html) of messages of one segment, written and read
/// in place. Envelopes are made and taken apart with this, because the library's builders and readers took
/// most of a short call's time; tests/rpc/flat_test.cpp holds it against the library. Positions are counted
/// in words of 8 bytes from the segment's beginning. Little-endian machines only, like the rest of Troupe.
namespace troupe::rpc::flat {

inline constexpr std::size_t kWord = 8;
/// Before the segment: the number of segments less one, and the segment's length in words.
inline constexpr std::size_t kTableBytes = 8;
/// Lists have 29 bits for their length.
inline constexpr std::size_t kMaxCount = (std::size_t{1} << 29) - 1;

/// The sizes of a struct's two sections, in words.
struct Layout {
  std::uint16_t data = 0;
  std::uint16_t pointers = 0;
  constexpr std::size_t words() const { return std::size_t{data} + pointers; }
};

enum class ElementSize : std::uint8_t { kByte = 2, kEightBytes = 5, kComposite = 7 };

// ---- Writing ------------------------------------------------------------------------------------

/// A segment that grows. Its functions throw std::length_error for what is too long for the encoding, and
/// std::bad_alloc.
class Writer {
 public:
  /// With the table: a block of HeadPool's second kind, as Endpoint makes it.
  static constexpr std::size_t kFirstBytes = 512;

  /// Its first memory comes from `heads`, if there is one that has such long blocks, else from `pool`.
  explicit Writer(MemoryPool& pool, HeadPool* heads = nullptr)
      : pool_(pool),
        buffer_(heads && heads->max_bytes() >= kFirstBytes ? heads->acquire(kFirstBytes)
                                                           : pool.allocate(kFirstBytes)),
        base_(buffer_.data() + kTableBytes),
        capacity_((kFirstBytes - kTableBytes) / kWord) {}

  std::uint32_t used() const { return used_; }
  std::byte* at(std::uint32_t word) { return base_ + std::size_t{word} * kWord; }
  template <class T>
  void put(std::uint32_t word, std::size_t byte, T value) {
    std::memcpy(at(word) + byte, &value, sizeof value);
  }

  /// `words` words of zeros at the end; returns the first.
  std::uint32_t allocate(std::size_t words) {
    const std::uint32_t first = allocate_raw(words);
    std::memset(at(first), 0, words * kWord);
    return first;
  }

  /// A struct of zeros that the pointer at `slot` points to.
  std::uint32_t add_struct(std::uint32_t slot, Layout layout) {
    const std::uint32_t first = allocate(layout.words());
    put(slot, 0, pointer(0, slot, first) | sizes(layout));
    return first;
  }
  /// A list of `count` structs of zeros; returns the first struct.
  std::uint32_t add_structs(std::uint32_t slot, std::size_t count, Layout layout) {
    if (count > kMaxCount / layout.words()) throw std::length_error("a list is too long for a message");
    const std::uint32_t tag = allocate(1 + count * layout.words());
    put(slot, 0, list_pointer(slot, tag, ElementSize::kComposite, count * layout.words()));
    put(tag, 0, (std::uint64_t{count} << 2) | sizes(layout));
    return tag + 1;
  }
  /// A list of `count` 64-bit numbers, all zero; returns the first.
  std::uint32_t add_numbers(std::uint32_t slot, std::size_t count) {
    const std::uint32_t first = allocate(count);
    put(slot, 0, list_pointer(slot, first, ElementSize::kEightBytes, count));
    return first;
  }
  /// Data, or with `zeros` = 1 Text, which ends in a byte of zeros.
  void add_bytes(std::uint32_t slot, std::span<const std::byte> bytes, std::size_t zeros = 0) {
    const std::size_t count = bytes.size() + zeros;
    if (count > kMaxCount) throw std::length_error("a string or vector is too long for a message");
    const std::size_t words = (count + kWord - 1) / kWord;
    const std::uint32_t first = allocate_raw(words);
    if (words > 0) put(first + static_cast<std::uint32_t>(words) - 1, 0, std::uint64_t{0});
    if (!bytes.empty()) std::memcpy(at(first), bytes.data(), bytes.size());
    put(slot, 0, list_pointer(slot, first, ElementSize::kByte, count));
  }
  void add_text(std::uint32_t slot, std::string_view text) {
    add_bytes(slot, std::as_bytes(std::span(text)), 1);
  }

  std::size_t flat_bytes() const { return kTableBytes + std::size_t{used_} * kWord; }
  /// The message with its table. Nothing may be done with the writer any more.
  Buffer flat() && {
    write_table(base_ - kTableBytes, used_);
    return std::move(buffer_).slice(0, flat_bytes());
  }
  /// The words from `first` on as a message of their own, the root of which is the struct at `first`. They
  /// must not point out of themselves. Overwrites the two words before; nothing may be written any more.
  Buffer flat_from(std::uint32_t first, Layout root) {
    put(first - 1, 0, pointer(0, first - 1, first) | sizes(root));
    const std::uint32_t words = used_ - first + 1;
    std::byte* const table = at(first) - kWord - kTableBytes;
    write_table(table, words);
    return buffer_.slice(static_cast<std::size_t>(table - buffer_.data()),
                         kTableBytes + std::size_t{words} * kWord);
  }

 private:
  static std::uint64_t sizes(Layout layout) {
    return (std::uint64_t{layout.data} << 32) | (std::uint64_t{layout.pointers} << 48);
  }
  static std::uint64_t pointer(std::uint32_t kind, std::uint32_t slot, std::uint32_t target) {
    return ((target - slot - 1) << 2) | kind;
  }
  static std::uint64_t list_pointer(std::uint32_t slot, std::uint32_t target, ElementSize size,
                                    std::size_t count) {
    return pointer(1, slot, target) | (std::uint64_t{static_cast<std::uint8_t>(size)} << 32) |
           (std::uint64_t{count} << 35);
  }
  static void write_table(std::byte* table, std::uint32_t words) {
    const std::uint32_t entries[2] = {0, words};
    std::memcpy(table, entries, sizeof entries);
  }
  std::uint32_t allocate_raw(std::size_t words) {
    if (words > capacity_ - used_) grow(words);
    const std::uint32_t first = used_;
    used_ += static_cast<std::uint32_t>(words);
    return first;
  }
  void grow(std::size_t words);

  MemoryPool& pool_;
  Buffer buffer_;
  std::byte* base_;
  std::uint32_t capacity_;  // words
  std::uint32_t used_ = 0;
};

// ---- Reading ------------------------------------------------------------------------------------

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

}  // namespace troupe::rpc::flat
