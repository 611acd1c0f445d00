#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/task.hpp>

#include "control/link_table.hpp"
#include "sim/world.hpp"

namespace troupe::rpc {

/// A process of a simulated world. The network puts what arrives into its inbox; poll() takes it out,
/// so that a stopped host finds everything waiting when it goes on.
class SimTransport final : public Transport {
 public:
  SimTransport(SimNetwork& world, Loop& loop, std::string host);
  ~SimTransport() override;
  SimTransport(const SimTransport&) = delete;
  SimTransport& operator=(const SimTransport&) = delete;

  int poll() override;
  void set_events(TransportEvents& events) override { events_ = &events; }
  Limits limits() const override { return limits_; }
  void bound_strangers(const StrangerBounds& bounds) override { strangers_ = bounds; }
  void admit(LinkId link) override;
  bool is_local(std::string_view) const override { return true; }  // no other machine takes part
  Result<std::string> listen(std::string_view address) override;
  Result<LinkId> dial(std::string_view address) override;
  void send_control(LinkId link, std::span<const std::byte> message) override;
  std::vector<std::byte> data_address(LinkId link) override;
  Result<void> open_data(LinkId link, std::span<const std::byte> peer_data_address) override;
  Result<void> send(LinkId link, OutFrame&& frame) override;
  std::size_t bytes_in_flight(LinkId link) const override;
  void pause(LinkId link, bool on) override;
  void close(LinkId link) override;

  // ---- For the world ------------------------------------------------------------------------------
  SimNodeId id() const { return id_; }
  const std::string& host() const { return host_; }
  Loop& loop() const { return loop_; }
  bool alive() const { return alive_; }
  /// Whether its loop may run.
  bool running() const { return alive_ && !world_.is_stopped(host_); }
  void die();
  bool has_mail() const { return !inbox_.empty(); }
  /// The kernel's part of a meeting: the link exists from now on, the process hears of it in poll().
  /// False: as many strangers wait as may.
  bool accept(const std::shared_ptr<SimConnection>& connection, std::string peer_address);
  void connected(LinkId link);
  void receive_control(LinkId link, SimConnection::Control control);
  void receive_data(LinkId link, SimMessage message);
  void sent(LinkId link, std::size_t bytes);

 private:
  struct Link {
    Link(LinkId link_id, std::shared_ptr<SimConnection> its_connection, int its_side)
        : id(link_id), connection(std::move(its_connection)), side(its_side) {}
    LinkId id;
    std::shared_ptr<SimConnection> connection;
    int side;  // our place in connection->ends
    bool met = false;
    bool open = false;
    bool admitted = false;
    bool paused = false;
    std::deque<SimMessage> held;  // came while it was paused
    std::size_t bytes_in_flight = 0;
  };

  void fail(LinkId link, Error error);
  void take(LinkId link, SimMessage&& message);
  void deliver_held(LinkId link);
  void deliver(LinkId link, const SimMessage& message);

  SimNetwork& world_;
  Loop& loop_;
  std::string host_;
  SimNodeId id_;
  Limits limits_;
  TransportEvents* events_ = nullptr;
  LinkTable<Link> links_;
  std::deque<Task> inbox_;
  StrangerBounds strangers_;
  std::size_t waiting_strangers_ = 0;  // incoming links that are not admitted
  bool alive_ = true;
};

}  // namespace troupe::rpc
