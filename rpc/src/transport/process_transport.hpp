#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/holds_back.hpp>
#include <troupe/runtime/loop.hpp>

#include "control/control_sockets.hpp"
#include "control/link_table.hpp"
#include "control/socket.hpp"
#include "shm/way.hpp"
#include "tcp/way.hpp"
#include "transport/data_plane.hpp"
#include "transport/data_way.hpp"
#include "ucx/way.hpp"

namespace troupe::rpc {

/// The transport of real nodes: control goes through ControlSockets, data by the first of several ways
/// that both ends of a link have: shared memory between processes of this machine, RDMA over UCX, TCP.
class ProcessTransport final : public Transport, public HoldsBack, private ControlEvents {
 public:
  static Result<std::unique_ptr<ProcessTransport>> create(Loop& loop, const TransportOptions& options);
  ~ProcessTransport() override;

  int poll() override;
  int event_fd() const override { return event_fd_.get(); }
  bool arm() override;
  void flush() override;

  void set_events(TransportEvents& events) override { data_.events = &events; }
  Limits limits() const override { return limits_; }
  void bound_strangers(const StrangerBounds& bounds) override { control_.bound_strangers(bounds); }
  void admit(LinkId link) override { control_.admit(link); }
  bool can_share_memory(LinkId link) const override {
    const Link* const found = links_.find(link);
    return found && found->is_local;
  }
  std::string peer_identity(LinkId link) const override;
  bool is_local(std::string_view address) const override {
    const auto parsed = SocketAddress::parse(address);
    return !parsed || parsed->is_local();
  }
  bool has_room_for(LinkId link) const override { return !control_.is_one_too_many(link); }
  std::string local_host(LinkId link) const override;
  Result<std::string> listen(std::string_view address) override;
  Result<LinkId> dial(std::string_view address) override;
  void send_control(LinkId link, std::span<const std::byte> message) override {
    control_.send(link, message);
  }
  std::vector<std::byte> data_address(LinkId link) override;
  Result<void> open_data(LinkId link, std::span<const std::byte> peer_data_address) override;
  std::string describe_way(LinkId link) override;
  Result<void> send(LinkId link, OutFrame&& frame) override;
  std::size_t bytes_in_flight(LinkId link) const override;
  void pause(LinkId link, bool on) override;
  void close(LinkId link) override;

  /// For tests.
  const DataPlane::Stats& stats() const { return data_.stats; }
  tcp::TcpWay& streams() { return tcp_; }
  std::size_t workers() const { return ucx_ ? ucx_->workers() : 0; }
  std::size_t unfinished() const { return ucx_ ? ucx_->unfinished() : 0; }

 private:
  /// A link that has met, until its end.
  struct Link {
    Link(LinkId of, bool local) : id(of), is_local(local) {}
    void note(const DataWay& not_taken, const std::string& why) {
      reasons += (reasons.empty() ? "no " : "; no ") + std::string(not_taken.name()) + ": " + why;
    }

    const LinkId id;
    const bool is_local;     ///< as LinkFacts says
    DataWay* way = nullptr;  ///< that both use; null until that is agreed
    WayEnd* end = nullptr;   ///< of it, or of the way that is being tried
    std::size_t tried = 0;   ///< the number of that one in ways_
    bool opened = false;
    bool paused = false;
    std::vector<std::byte> offers;  ///< the peer's, until it is agreed
    std::string reasons;            ///< why better ways were not taken
    std::list<OutFrame> waiting;    ///< sent before it was agreed
    std::size_t bytes_waiting = 0;
    std::list<Arrival> held;  ///< came while the link was paused
    std::size_t bytes_held = 0;
  };

  ProcessTransport(Loop& loop, const TransportOptions& options);
  Result<void> make_ways();

  void on_met(LinkId link, std::string_view peer_address, bool incoming) override;
  void on_message(LinkId link, std::span<const std::byte> message) override;
  void on_stream(std::span<const std::byte> preamble, UniqueFd fd) override;
  void on_parted(LinkId link, Error error) override;

  Result<void> reach_beyond(const SocketAddress& address);
  Result<void> try_ways(Link& link, std::size_t from);
  void look_at_agreement(LinkId link);
  void decide(Link& link);
  void deliver_rest(LinkId link);
  void detach(LinkId link);
  int deliver();
  int deliver_held();
  void hold(Link& link, Arrival&& arrival);
  void fail_broken();
  void watch_ways(bool on);

  Loop& loop_;
  TransportOptions options_;
  Limits limits_;
  UniqueFd event_fd_;      // an epoll descriptor over the quiet ways' own and, while armed, the others'
  bool watching_ = false;  // whether it has those
  TimePoint brisk_until_;  // messages are taken to take little
  DataPlane data_;
  shm::ShmWay shm_;
  tcp::TcpWay tcp_;
  std::unique_ptr<UcxWay> ucx_;  // null: this process does without UCX
  std::vector<DataWay*> ways_;   // the better one first
  LinkTable<Link> links_;
  std::size_t decided_ = 0;        // links with a way
  std::vector<LinkId> undecided_;  // opened, and not agreed yet
  std::vector<LinkId> resumed_;    // with something held to be delivered
  ControlSockets control_;
  int polling_ = 0;  // of poll() in one another
};

}  // namespace troupe::rpc
