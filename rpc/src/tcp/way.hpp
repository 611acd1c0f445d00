#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/timer.hpp>

#include "control/link_table.hpp"
#include "control/socket.hpp"
#include "tcp/connection.hpp"
#include "tcp/wire.hpp"
#include "transport/data_plane.hpp"
#include "transport/removed_ends.hpp"

namespace troupe::rpc::tcp {

/// The ways between this process and others over TCP: for each link two sockets, one for messages, one for
/// the parts of large ones. Whoever dialled to meet dials them, too, at the same port, so that they go where
/// the meeting went, through whatever forwards it.
///
/// UCX knows TCP as well. This is faster for messages (many go with one system call, and fewer of them) and
/// for tensors, and, other than UCX 1.13, no peer's death can end our process; see docs/performance.md.
///
/// Loop only. Belongs to a transport, which polls it.
class TcpWay final : public DataWay {
 public:
  TcpWay(Loop& loop, DataPlane& data, Offer offer);
  ~TcpWay() override;
  TcpWay(const TcpWay&) = delete;
  TcpWay& operator=(const TcpWay&) = delete;

  WayId id() const override { return WayId::kTcp; }
  std::string_view name() const override { return "TCP"; }
  /// What connected sockets become; plain_stream() if nobody says otherwise. Before the first link.
  using MakeStream = std::function<std::unique_ptr<ByteStream>(UniqueFd)>;
  void set_streams(MakeStream make) { make_stream_ = std::move(make); }

  Result<void> add(const LinkFacts& facts) override;
  std::vector<std::byte> offer(LinkId link) override;
  /// How the peer finds our side of it; nothing offered if there is no such way.
  Address address(LinkId link);
  /// Somebody has dialled a stream where we meet, and said so much; who does not know a link's token, which
  /// only those that have met us can, is hung up on.
  void take(const Preamble& preamble, UniqueFd fd);
  /// What is sent before the streams are there waits.
  Result<WayEnd*> open(LinkId link, std::span<const std::byte> peer_offer) override;
  /// That of its streams; those of one link must be the same.
  std::string_view peer_identity(const WayEnd& way_end) const override;
  void remove(LinkId link) override;

  Result<void> send(WayEnd& way_end, OutFrame&& frame) override;
  std::size_t bytes_in_flight(const WayEnd& way_end) const override;
  void pause(LinkId link, bool on) override;
  void drain(LinkId link) override;

  /// What arrived is in DataPlane::arrivals.
  int poll() override;
  void flush() override;
  int event_fd() const override { return ready_.get(); }
  bool arm() override;

 private:
  struct End;
  class Dialling;
  /// While one lives, ends that are removed stay in memory: their code may be on the stack, because
  /// dropping a sent buffer may run anybody's.
  class Depth;

  void attach(End& end, StreamKind kind, UniqueFd fd);
  void lose(End& end, Code code, const std::string& why);
  bool may_hold(End& end, std::size_t head_bytes) const;
  void check(End& end, Connection::Got got);
  int receive(End& end);
  int receive_ready();
  /// Bytes of large messages that one round may send, and receive, on one link.
  std::size_t may_send() const;
  std::size_t may_receive() const;
  std::size_t go_on(End& end);
  void note_busy(End& end);
  void look_at_retired();
  void watch(End& end, bool armed);

  struct End final : public WayEnd, public TimerNode {
    End(LinkId id, TcpWay& owner, bool is_incoming, const Token& own_token, bool lends);
    ~End() override;
    void on_timer() override;

    TcpWay& way;
    const bool incoming;
    const Token token;
    Connection streams;
    std::vector<std::unique_ptr<Dialling>> dialling;
    bool opened = false;  // in opened_
    bool ended = false;   // a stream has; the control socket's end should follow
    bool lost = false;
    bool paused = false;           // nothing is read for now
    bool busy = false;             // in busy_
    bool collected = false;        // in collected_
    std::uint64_t sent_round = 0;  // the last in which something was sent at once
    std::size_t most_held;         // of what a thread sends that begins one call after another
    unsigned nothing_came = 0;     // times in a row
    std::unique_ptr<End> removed_before;
  };

  Loop& loop_;
  DataPlane& data_;
  Offer offer_;
  MakeStream make_stream_ = plain_stream;
  UniqueFd ready_;  // an epoll descriptor over all streams of messages; while armed, also over busy streams
                    // of bulk
  LinkTable<End> ends_;
  std::vector<End*> opened_;
  std::vector<End*> busy_;  // with bulk under way, or something that a stream did not take. Null: removed
  std::vector<End*> collected_;  // with something to flush. Null: removed
  RemovedEnds<End> removed_;
  std::vector<std::byte> scratch_;
  bool armed_ = false;
  std::uint64_t round_ = 0;
  unsigned quiet_rounds_ = 0;        // since a small message came
  std::uint64_t small_sent_in_ = 0;  // the last round with one from us
  int depth_ = 0;
  Timer retired_timer_;  // looks for what RetiredPages can let go
};

}  // namespace troupe::rpc::tcp
