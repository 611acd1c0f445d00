#pragma once

#include <cstddef>
#include <cstdint>

#include "transport/data_way.hpp"

namespace troupe::rpc::tcp {

/// Whether a side of a link can use streams.
enum class Offer : std::uint16_t {
  kNone = 0,
  kIfNeeded = 1,  ///< it knows better ways, which need both sides
  kGladly = 2,
};

/// How a peer finds our side of a link. Comes from the peer: all of it may be wrong.
struct Address {
  Offer offer = Offer::kNone;
  std::uint16_t takes_streams = 0;  ///< 1: dial the link's streams where you dialled to meet; 0: we dial
  std::uint32_t unused = 0;
  Token token{};  ///< with which the peer's streams must begin; its first word finds the link
};

/// A link has two streams, so that a small message need not wait for a large one.
enum class StreamKind : std::uint32_t {
  kMessages = 1,  ///< records, each a RecordHeader and what it says
  kBulk = 2,      ///< the parts of announced messages, in the order in which they were announced
};

/// With what the dialling side begins a stream; little endian, like all of this. The magic number is told
/// from a control message, which may begin a connection to the same port, by being more than any one's
/// length.
struct Preamble {
  static constexpr std::uint32_t kMagic = 0x31535554;  // "TUS1"
  std::uint32_t magic = kMagic;
  StreamKind kind = StreamKind::kMessages;
  Token token{};
};
static_assert(sizeof(Preamble) == 24);

enum class RecordKind : std::uint16_t {
  kMessage = 1,    ///< then the head, then the parts
  kAnnounced = 2,  ///< then the head; the parts come by the bulk stream
  kLent = 3,       ///< the same, and the bulk stream is fed from the parts' own memory: it wants a kTaken
  kTaken = 4,      ///< so many (`part_bytes`) lent messages more have been received whole
};

struct RecordHeader {
  RecordKind kind = RecordKind::kMessage;
  std::uint16_t unused = 0;
  std::uint32_t head_bytes = 0;
  std::uint64_t part_bytes = 0;
};
static_assert(sizeof(RecordHeader) == 16);

/// Messages with longer parts are announced: then their parts are received where they are wanted, and not
/// copied once more. Costs two system calls more.
constexpr std::size_t kMostInline = std::size_t{16} << 10;

}  // namespace troupe::rpc::tcp
