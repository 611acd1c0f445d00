#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string_view>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/memory_pool.hpp>

#include "wire/flat.hpp"
#include "wire/head_pool.hpp"

namespace troupe::rpc::flat {

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
    const std::uint32_t tag = allocate_raw(1 + count * layout.words());
    std::byte* next = at(tag + 1);
    for (std::size_t i = 0; i < count; ++i, next += layout.words() * kWord) {
      std::memset(next, 0, layout.words() * kWord);
      asm volatile("");  // keeps the compiler from making one call of it, which takes longer for a few
    }
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

}  // namespace troupe::rpc::flat
