#pragma once

#include <sys/epoll.h>

#include <functional>

#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/result.hpp>

#include "control/address.hpp"
#include "control/socket.hpp"

namespace troupe::rpc {

/// A listening socket on a loop, which hands over the connections that come. Where it cannot accept any it
/// rests for a while instead of having the loop spin: they wait in the kernel meanwhile. It keeps one
/// descriptor in reserve, so that of a process that has come to its limit one newcomer at a time can be told
/// so. Removes the file of a unix socket when it goes. Loop only.
class Listener final : private FdHandler, private TimerNode {
 public:
  using OnConnected = std::function<void(UniqueFd fd, const SocketAddress& listening_at)>;
  /// Whether one more may come now.
  using HasRoom = std::function<bool()>;

  /// `on_connected` must not end the listener.
  Listener(Loop& loop, UniqueFd fd, OnConnected on_connected, HasRoom has_room = {});
  ~Listener() override;
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  /// An error also if there is no descriptor for the reserve: it could tell nobody that it is full.
  Result<void> start();
  /// Where it listens, with the port that the kernel chose.
  const SocketAddress& address() const { return address_; }

 private:
  void on_ready(std::uint32_t events) override;
  void on_timer() override;
  void rest(Duration time);
  int accept();

  Loop& loop_;
  UniqueFd fd_;
  UniqueFd reserve_;  // stands for a descriptor that can be had
  const SocketAddress address_;
  OnConnected on_connected_;
  HasRoom has_room_;
};

}  // namespace troupe::rpc
