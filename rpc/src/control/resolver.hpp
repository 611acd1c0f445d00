#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <troupe/runtime/host_port.hpp>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/result.hpp>

#include "control/address.hpp"

namespace troupe::rpc {

/// Looks names of hosts up, with whatever the system asks for them (hosts file, DNS, others), IPv4 and IPv6.
/// The system's resolver waits for its answers, for many seconds if a server of names is silent: so it runs
/// on threads of its own, few, which nobody waits for. Loop only.
class Resolver {
 public:
  /// All addresses of the name, best first, never none. kUnavailable: it has none, or none now.
  using OnFound = std::function<void(Result<std::vector<SocketAddress>>)>;
  using Lookup = std::uint64_t;

  explicit Resolver(Loop& loop);
  ~Resolver();  ///< no on_found is called any more
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  /// `on_found` is called once, on the loop, not from in here. It may take as long as the system takes: who
  /// asks keeps a deadline, and then forgets.
  Lookup look_up(const HostPort& name, OnFound on_found);
  void forget(Lookup lookup);

 private:
  struct Desk;
  struct Waiting;
  std::shared_ptr<Desk> desk_;        // shared with the threads
  std::shared_ptr<Waiting> waiting_;  // of the loop alone
};

/// The same for who has no loop yet that others rely on: waits for the answer. Any thread.
Result<std::vector<SocketAddress>> look_up_and_wait(const HostPort& name, Duration patience);

}  // namespace troupe::rpc
