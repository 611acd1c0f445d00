#pragma once

#include <cstddef>
#include <cstdint>

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

}  // namespace troupe::rpc::flat
