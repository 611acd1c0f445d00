#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/timer.hpp>

#include "control/address.hpp"
#include "control/link_table.hpp"
#include "control/listener.hpp"
#include "control/resolver.hpp"

namespace troupe::rpc {

/// What ControlSockets tell their transport. On the loop, never from inside one of their functions.
class ControlEvents {
 public:
  virtual ~ControlEvents() = default;
  virtual void on_met(LinkId link, std::string_view peer_address, bool incoming) = 0;
  virtual void on_message(LinkId link, std::span<const std::byte> message) = 0;
  /// Somebody who has connected does not want to meet: it has begun with the mark of a stream, of which this
  /// is the whole preamble; what follows that has not been read.
  virtual void on_stream(std::span<const std::byte> preamble, UniqueFd fd) = 0;
  /// The socket is closed and the link forgotten.
  virtual void on_parted(LinkId link, Error error) = 0;
};

/// The sockets at which processes meet, and which carry control messages from then on: one TCP or unix stream
/// to each peer. Its end is how the death of the peer's process is found out: the kernel closes it whatever
/// killed the process.
///
/// On the stream each message is a u32 length (little endian) and that many bytes. A length above
/// `max_message_bytes` ends the link, so whatever else connects to the port harms nobody.
///
/// Streams of data may be dialled at the same port: the first four bytes of a connection tell them, because
/// no message is as long as they would say. Until these are there a connection is no link, and nobody hears
/// of it.
///
/// Loop only. Watches its descriptors through the loop.
class ControlSockets {
 public:
  /// `max_message_bytes` also bounds what is kept of a half-received message.
  ControlSockets(Loop& loop, std::size_t max_message_bytes, ControlEvents& events);
  ~ControlSockets();
  ControlSockets(const ControlSockets&) = delete;
  ControlSockets& operator=(const ControlSockets&) = delete;

  Result<std::string> listen(const SocketAddress& address);
  /// Streams begin with `mark`, a number above max_message_bytes, and so many bytes in all.
  void expect_streams(std::uint32_t mark, std::size_t preamble_bytes);
  Result<LinkId> dial(const Destination& to);
  /// Until admit() a link's messages have their own bound. Incoming ones that are not admitted count as
  /// strangers: past their number the kernel keeps who comes next waiting, and the oldest, once they have had
  /// their time to say something, are given up.
  void bound_strangers(const Transport::StrangerBounds& bounds) { bounds_ = bounds; }
  void admit(LinkId link);
  /// More than max_message_bytes ends the link. Ignored for links that are gone.
  void send(LinkId link, std::span<const std::byte> message);
  /// Ends a link without on_parted(). What was queued is still given to the kernel if that takes it.
  void close(LinkId link);
  /// Ends a link from the next round on, with on_parted().
  void fail_soon(LinkId link, Error error);
  /// Whether a link exists; it may still be connecting.
  bool has(LinkId link) const { return sockets_.find(link) != nullptr; }
  /// An incoming link for which there is no room: this process is near its limit of descriptors. Links that
  /// are there may need some more at any time, so the last few are not given to newcomers.
  bool is_one_too_many(LinkId link) const;
  /// Whether the peer has closed its side already, as the kernel sees it now (one system call).
  bool peer_has_left(LinkId link) const;
  /// Of the link's socket; of one that is gone: of no family.
  SocketAddress local_address(LinkId link) const;
  SocketAddress remote_address(LinkId link) const;
  std::vector<LinkId> links() const { return sockets_.ids(); }

 private:
  class Socket;
  class Lingering;

  struct Stranger {
    LinkId link = 0;
    TimePoint since;
  };

  void on_accepted(UniqueFd fd, const SocketAddress& listening_at);
  bool has_room();
  std::size_t most_bytes(const Socket& socket) const;
  Result<void> open(Socket& socket, UniqueFd fd);
  void socket_ready(LinkId link, std::uint32_t events);
  void on_dialled(LinkId link, Result<UniqueFd> connected);
  void read_first_word(LinkId link);
  void hand_on(Socket& socket);
  bool is_near_limit(int fd);
  void read(LinkId link);
  void deliver(LinkId link);
  void flush(Socket& socket);
  void watch(Socket& socket);
  void end(LinkId link, Error error);
  void fail_doomed();

  Loop& loop_;
  std::size_t max_message_bytes_;
  ControlEvents& events_;
  Transport::StrangerBounds bounds_;
  std::list<Stranger> strangers_;    // oldest first; each is in sockets_, which therefore goes first
  std::deque<TimePoint> newcomers_;  // when links were let in lately
  std::uint32_t stream_mark_ = 0;
  std::size_t preamble_bytes_ = 0;
  Resolver resolver_;
  LinkTable<Socket> sockets_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::list<Lingering> lingering_;
  std::vector<std::pair<LinkId, Error>> doomed_;
  Timer doom_timer_;
  std::vector<std::byte> scratch_;  // what recv() fills, before it is known whose message it is
};

}  // namespace troupe::rpc
