#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/holds_back.hpp>
#include <troupe/runtime/result.hpp>

#include "control/control_sockets.hpp"
#include "transport/ring.hpp"
#include "wire/head_pool.hpp"

namespace troupe::rpc {

/// A received message, ready for TransportEvents::on_frame().
struct Arrival {
  LinkId link = 0;
  Buffer head;
  std::vector<Buffer> parts;
};

/// What all ways for data of one transport share.
struct DataPlane {
  struct Stats {
    std::uint64_t stray = 0;      // messages for links that are closed or never were
    std::uint64_t malformed = 0;  // messages too short or too long to be ours
    std::uint64_t lost = 0;       // messages of which the parts could not be received
  };

  explicit DataPlane(std::size_t max_head)
      : max_head_bytes(max_head), heads(max_head + sizeof(std::uint64_t)) {}

  /// The link is to be closed, as soon as nothing of a vendor's is on the stack.
  void lose(LinkId link, Error error) { broken.emplace_back(link, std::move(error)); }

  /// Fills `arrival.parts` with memory for `size` bytes. False: there is none, and the link is lost.
  bool ask_for_parts(Arrival& arrival, std::size_t size) {
    Result<void> answer;
    try {  // nothing may be thrown through a vendor's library
      answer = events->on_parts(arrival.link, arrival.head.bytes(), size, arrival.parts);
    } catch (const std::exception& exception) {
      answer = Error{Code::kResourceExhausted,
                     std::string("no memory for a message's parts: ") + exception.what()};
    }
    if (answer) {
      std::size_t sum = 0;
      for (const Buffer& part : arrival.parts) sum += part.size();
      if (sum == size) return true;
      answer = Error{Code::kInternal, "buffers of " + std::to_string(sum) + " bytes were given for " +
                                          std::to_string(size) + " bytes of parts"};
    }
    ++stats.lost;
    lose(arrival.link, answer.error());
    return false;
  }

  const std::size_t max_head_bytes;
  HeadPool heads;
  Ring<Arrival> arrivals{1024};                  // to be delivered
  std::vector<std::pair<LinkId, Error>> broken;  // links to be closed, with why
  TransportEvents* events = nullptr;
  const ControlSockets* control = nullptr;
  HoldsBack* holder = nullptr;  // for what is sent while nothing is being collected
  // What is sent to a link after its first message of a round waits for the round's end, or until there is
  // much of it.
  bool collecting = false;
  bool collected = false;  // something does
  bool brisk = false;      // messages are being delivered of which each takes little
  Stats stats;
};

/// Copies contiguous bytes into parts, as many as they hold.
inline void scatter(const std::byte* from, const std::vector<Buffer>& parts) {
  for (const Buffer& part : parts) {
    if (part.empty()) continue;
    std::memcpy(part.data(), from, part.size());
    from += part.size();
  }
}

}  // namespace troupe::rpc
