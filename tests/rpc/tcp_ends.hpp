#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "control/control_sockets.hpp"
#include "control/socket.hpp"
#include "tcp/connection.hpp"
#include "tcp/way.hpp"
#include "transport_contract.hpp"

/// The two ends of one link's streams over TCP, without a transport around them.
namespace troupe::rpc::tcp {

struct TestDeadline {
  bool over() const { return std::chrono::steady_clock::now() > end; }
  std::chrono::steady_clock::time_point end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
};

/// The two ends of a TCP connection over the loopback device.
inline std::array<UniqueFd, 2> tcp_pair() {
  const SocketAddress any = SocketAddress::parse("127.0.0.1:0").value();
  const UniqueFd listener = std::move(*listen_socket(any));
  UniqueFd a = std::move(*connecting_socket(SocketAddress::local_of(listener.get())));
  int accepted = -1;
  for (const TestDeadline deadline; accepted < 0 && !deadline.over();)
    accepted = ::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  tune_stream(a.get());
  tune_stream(accepted);
  return {std::move(a), UniqueFd(accepted)};
}

struct Owner final : ControlEvents {
  void on_met(LinkId, std::string_view, bool) override { met = true; }
  void on_message(LinkId, std::span<const std::byte>) override {}
  void on_stream(std::span<const std::byte>, UniqueFd) override {}
  void on_parted(LinkId, Error) override {}
  bool met = false;
};

/// A connection whose link's control socket is open.
struct End {
  static constexpr std::size_t kMaxHead = 4096;

  explicit End(bool lends) {
    events.transport = nullptr;
    data.events = &events;
    data.control = &control;
    const std::string at = control.listen(SocketAddress::parse("127.0.0.1:0").value()).value();
    link = control.dial(Destination::parse(at).value()).value();
    REQUIRE(loop.wait_until([this] { return owner.met; }, clock.now() + std::chrono::seconds(30)));
    connection = std::make_unique<Connection>(link, data, lends);
  }
  Connection::Got receive() {
    const HeadPool::Scope scope(data.heads);
    int records = 0;
    const Connection::Got got = connection->receive(scratch, records);
    std::size_t bytes = 0;
    static_cast<void>(connection->flush(SIZE_MAX));
    if (got != Connection::Got::kOn) return got;
    const Connection::Got bulk = connection->receive_bulk(SIZE_MAX, bytes);
    while (!data.arrivals.empty()) {
      Arrival arrival = data.arrivals.pop();
      frames.push_back(contract::check_frame(arrival.link, arrival.head, arrival.parts));
    }
    return bulk;
  }

  RealClock clock;
  Loop loop{clock};
  Loop::Turn turn{loop};
  Owner owner;
  ControlSockets control{loop, 65536, owner};
  DataPlane data{kMaxHead};
  contract::Peer events;
  LinkId link = 0;
  std::unique_ptr<Connection> connection;
  std::vector<contract::ReceivedFrame> frames;
  std::vector<std::byte> scratch = std::vector<std::byte>(Connection::kScratchBytes);
};

struct Ends {
  explicit Ends(bool lends = true, const TcpWay::MakeStream& make = plain_stream) : a(lends), b(lends) {
    for (const StreamKind kind : {StreamKind::kMessages, StreamKind::kBulk}) {
      auto [to_a, to_b] = tcp_pair();
      a.connection->attach(kind, make(std::move(to_a)));
      b.connection->attach(kind, make(std::move(to_b)));
    }
  }
  bool until_b_has(std::size_t count) {
    const TestDeadline deadline;
    while (b.frames.size() < count || a.connection->bytes_in_flight() > 0) {
      if (a.receive() != Connection::Got::kOn || b.receive() != Connection::Got::kOn) return false;
      if (deadline.over()) return false;
    }
    return true;
  }
  bool all_intact() const {
    return std::all_of(b.frames.begin(), b.frames.end(), [](const auto& frame) { return frame.intact; });
  }

  End a, b;
};

}  // namespace troupe::rpc::tcp
