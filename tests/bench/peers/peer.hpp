#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "harness.hpp"

/// What the programs of the peers share: which figures are taken, between which processes. A peer brings
/// a server and the three ways to load it.
namespace troupe::bench {

inline constexpr std::size_t kCallBytes = 64;
inline constexpr std::size_t kCallWindow = 256;  ///< calls of kCallBytes that are open at once
inline constexpr std::size_t kFewOpen = 64;      ///< ... in a figure of its own, over TCP
inline constexpr std::size_t kDataWindow = 8;    ///< large messages under way at once

/// A client that is connected. Each function returns when the server has dealt with all `count` messages;
/// what fails ends the process.
class PeerClient {
 public:
  virtual ~PeerClient() = default;
  /// Calls of kCallBytes, one after the other; the answer to each
  /// is what was sent.
  virtual void calls(std::size_t count) = 0;
  /// The same, `window` of them open.
  virtual void open_calls(std::size_t count, std::size_t window) = 0;
  /// Messages of `bytes`, one way, kDataWindow of them under way, each from another place in memory.
  virtual void stream(std::size_t bytes, std::size_t count) = 0;
};

struct Peer {
  std::string name;
  std::vector<std::string> transports;  ///< "shm", "unix", "tcp"
  std::function<void(const std::string& transport, const Ready& ready)> serve;
  std::function<std::unique_ptr<PeerClient>(const std::string& transport, const std::string& address)>
      connect;
  bool streams = true;  ///< it has stream()
};

/// kDataWindow pieces of memory of `bytes` each that have been written to.
std::vector<std::vector<char>> data_to_send(std::size_t bytes);

/// main() of a peer's program: `peer_<name> [part of a figure's name ...]` prints a line for each figure.
int peer_main(const Peer& peer, int argc, char** argv);

}  // namespace troupe::bench
