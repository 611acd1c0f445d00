#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

/// Bytes from the wire, given to an endpoint as its transport would: for fuzzing, and for a test that the
/// seeds get where they should.
namespace troupe::rpc::fuzz {

/// What an input begins with: how the link is when its bytes come.
enum Setting : std::uint8_t {
  kIncoming = 1,  ///< the peer has dialled
  kSecret = 2,    ///< there is a shared secret
  kMet = 4,       ///< the meeting is over (without a secret)
};

/// Then records: kind, length of the payload (u16, little-endian), payload.
enum class RecordKind : std::uint8_t {
  kControl,  ///< a control message
  kFrame,    ///< length of the head (u16), head, bytes of the parts
};

/// How far an input came.
struct Reached {
  int sessions = 0;  ///< meetings that succeeded
  int calls = 0;     ///< handed to the layer above
  int replies = 0;   ///< answers to our call
  int items = 0;     ///< of the stream that we read
  int values = 0;    ///< values decoded, as any type
};

Reached run_wire_input(std::span<const std::uint8_t> input);

struct Seed {
  std::string name;
  std::vector<std::uint8_t> bytes;
};

/// Valid inputs of every kind: small ones, from which a fuzzer starts.
std::vector<Seed> wire_seeds();

}  // namespace troupe::rpc::fuzz
