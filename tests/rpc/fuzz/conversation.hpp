#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

/// Whole conversations of two endpoints of this process over real transports, with what passes between them
/// changed on the way: for fuzzing, and for a test. Both ends have to withstand it, for each is a stranger's
/// peer.
namespace troupe::rpc::conversation {

/// What is changed.
enum class Kind : std::uint8_t {
  kMeeting,  ///< bytes of the sockets at which nodes meet: greeting, proof, hello, and what follows
  kTcp,      ///< bytes of all sockets of a link over TCP, from its third message on: records and bulk
  kRing,     ///< bytes in the shared memory of a link between processes of one machine
};
inline constexpr Kind kKinds[] = {Kind::kMeeting, Kind::kTcp, Kind::kRing};
const char* name_of(Kind kind);

/// One change. Bytes that are received are counted over all sockets and both directions; shared memory is
/// changed between two rounds of the two loops.
struct Edit {
  enum class What : std::uint8_t {
    kFlip,   ///< the byte is xored with `value`
    kSet,    ///< the byte becomes `value`
    kDrop,   ///< `value` bytes are lost; in shared memory: 8 bytes become 0
    kShort,  ///< a receive ends here, more comes later; in shared memory: 8 bytes become `value`, as a number
    kEnd,    ///< the socket ends here; in shared memory: the 8 bytes are raised by `value`
    kLong,   ///< nothing: `gap` counts 256-fold
  };
  std::uint16_t gap = 0;  ///< bytes since the last edit; in shared memory: the place, see conversation.cpp
  What what = What::kFlip;
  std::uint8_t value = 0;
};

/// Four bytes each; what does not fill four is left out.
std::vector<Edit> read_edits(std::span<const std::uint8_t> input);
std::vector<std::uint8_t> write_edits(std::span<const Edit> edits);

/// How far a conversation came.
struct Reached {
  bool met = false;
  int answered = 0;         ///< calls that ended with a value
  int failed = 0;           ///< with an error
  int items = 0;            ///< of the stream
  int changed = 0;          ///< edits that were carried out
  std::uint64_t bytes = 0;  ///< received, over all sockets
};

/// Calls that a conversation makes; each of them ends, whatever is changed, or this aborts.
inline constexpr int kCalls = 9;
inline constexpr int kItems = 10;

Reached converse(Kind kind, std::span<const std::uint8_t> input);

struct Seed {
  std::string name;
  std::vector<std::uint8_t> bytes;
};
/// Edits at places that mean something, one kind of each.
std::vector<Seed> seeds(Kind kind);

}  // namespace troupe::rpc::conversation
