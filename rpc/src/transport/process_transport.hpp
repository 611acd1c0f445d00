#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/loop.hpp>

#include "meeting/meeting.hpp"
#include "meeting/socket.hpp"
#include "shm/plane.hpp"
#include "tcp/plane.hpp"
#include "ucx/worker.hpp"

namespace troupe::rpc {

/// The transport of real nodes: control goes through a Meeting's sockets, data to processes of this machine
/// through shared memory (shm::Plane), to others over TCP (tcp::Plane) or, where there is RDMA or it is asked
/// for, through a UcxWorker.
///
/// There is usually one worker, or none where UCX has no use. A second takes over for new links when the
/// first allows the loopback device only and another host is named, or when it has collected too many
/// endpoints of dead peers; the old one goes with its last link.
class ProcessTransport final : public Transport, private MeetingEvents {
 public:
  static Result<std::unique_ptr<ProcessTransport>> create(Loop& loop, const TransportOptions& options);
  ~ProcessTransport() override;

  int poll() override;
  int event_fd() const override { return event_fd_.get(); }
  bool arm() override;

  void set_events(TransportEvents& events) override { plane_.events = &events; }
  Limits limits() const override { return limits_; }
  void bound_strangers(const StrangerBounds& bounds) override { meeting_.bound_strangers(bounds); }
  void admit(LinkId link) override { meeting_.admit(link); }
  bool can_share_memory() const override { return true; }
  bool is_local(std::string_view address) const override {
    const auto parsed = SocketAddress::parse(address);
    return !parsed || parsed->is_local();
  }
  Result<std::string> listen(std::string_view address) override;
  Result<LinkId> dial(std::string_view address) override;
  void send_control(LinkId link, std::span<const std::byte> message) override {
    meeting_.send(link, message);
  }
  std::vector<std::byte> data_address(LinkId link) override;
  Result<void> open_data(LinkId link, std::span<const std::byte> peer_data_address) override;
  Result<void> send(LinkId link, OutFrame&& frame) override;
  std::size_t bytes_in_flight(LinkId link) const override;
  void pause(LinkId link, bool on) override;
  void close(LinkId link) override;

  /// For tests.
  const DataPlane::Stats& stats() const { return plane_.stats; }
  tcp::Plane& streams() { return tcp_; }
  std::size_t workers() const { return workers_.size(); }
  std::size_t unfinished() const;

 private:
  ProcessTransport(Loop& loop, const TransportOptions& options);

  void on_met(LinkId link, std::string_view peer_address, bool incoming) override;
  void on_message(LinkId link, std::span<const std::byte> message) override;
  void on_parted(LinkId link, Error error) override;

  Result<void> add_worker();
  Result<void> reach_beyond(const SocketAddress& address);
  bool needs_workers();
  int deliver();
  int deliver_held();
  void hold(Channel& channel, Arrival&& arrival);
  void fail_broken();
  void retire_workers();
  void detach(LinkId link);
  void watch_networks(bool on);

  Loop& loop_;
  TransportOptions options_;
  Limits limits_;
  UniqueFd event_fd_;      // an epoll descriptor over the doorbell and, while armed, the networks' own
  bool watching_ = false;  // whether it has them
  UcxPlane plane_;
  shm::Plane shm_;
  tcp::Plane tcp_;
  std::vector<UcxWorker::Handle> workers_;  // the last takes new links
  std::vector<LinkId> resumed_;             // with something held to be delivered
  Meeting meeting_;
  const bool uses_ucx_;
  bool loopback_only_ = false;
  bool ucx_used_ = false;  // there is, or was, a peer that is reached through UCX
  int depth_ = 0;          // of poll() and deliver() in one another
  int polling_ = 0;        // of poll() alone
};

}  // namespace troupe::rpc
