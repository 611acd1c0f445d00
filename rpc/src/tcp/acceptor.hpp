#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/result.hpp>

#include "meeting/address.hpp"
#include "meeting/listener.hpp"
#include "meeting/socket.hpp"
#include "tcp/wire.hpp"

namespace troupe::rpc::tcp {

/// Where peers that have dialled us to meet dial again for their links' streams.
///
/// Whoever connects is a stranger until it has sent a Preamble, which only those that have met us can; of a
/// stranger no more is read. There are few at a time: the oldest gives way. Loop only.
class Acceptor {
 public:
  using OnStream = std::function<void(const Preamble& preamble, UniqueFd fd)>;

  Acceptor(Loop& loop, OnStream on_stream);
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  /// The port at which `host`, an address of this machine, listens; whatever port `host` has itself. It is
  /// opened when this is asked for the first time.
  Result<std::uint16_t> port_at(const SocketAddress& host);

 private:
  class Stranger;

  void on_connected(UniqueFd fd);
  void on_preamble(Stranger& stranger);
  void forget(Stranger& stranger);

  Loop& loop_;
  OnStream on_stream_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::list<Stranger> strangers_;  // oldest first
};

}  // namespace troupe::rpc::tcp
