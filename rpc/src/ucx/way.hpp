#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include <troupe/rpc/transport.hpp>

#include "control/address.hpp"
#include "control/socket.hpp"
#include "transport/data_way.hpp"
#include "ucx/worker.hpp"

namespace troupe::rpc {

/// The ways over UCX: where there is RDMA, or where it is asked for.
///
/// There is usually one worker. A second takes over for new links when the first allows the loopback device
/// only and another host is named, or when it has collected too many endpoints of dead peers; the old one
/// goes with its last link.
class UcxWay final : public DataWay {
 public:
  /// kUnavailable: UCX cannot be set up so.
  static Result<std::unique_ptr<UcxWay>> create(const TransportOptions& options, DataPlane& data);
  ~UcxWay() override;

  /// Another host than this one may be met from now on.
  Result<void> reach_beyond();

  WayId id() const override { return WayId::kUcx; }
  std::string_view name() const override { return "UCX"; }
  Result<void> add(const LinkFacts& facts) override;
  std::vector<std::byte> offer(LinkId link) override;
  Result<WayEnd*> open(LinkId link, std::span<const std::byte> peer_offer) override;
  void leave(LinkId link) override;
  void remove(LinkId link) override;

  Result<void> send(WayEnd& way_end, OutFrame&& frame) override;
  std::size_t bytes_in_flight(const WayEnd& way_end) const override;
  void pause(LinkId link, bool on) override;
  void drain(LinkId link) override;

  int poll() override;
  int event_fd() const override { return events_.get(); }
  bool arm() override;

  /// For tests.
  std::size_t workers() const { return workers_.size(); }
  std::size_t unfinished() const;

 private:
  UcxWay(const TransportOptions& options, DataPlane& data);
  Result<void> add_worker();
  void retire_workers();

  const TransportOptions options_;
  UniqueFd events_;  // an epoll descriptor over the workers' own
  UcxLinks links_;
  std::vector<UcxWorker::Handle> workers_;  // the last takes new links
  bool loopback_only_;
  bool used_ = false;  // a link goes, or went, this way
  int depth_ = 0;      // of poll() in one another
};

}  // namespace troupe::rpc
