#pragma once

#include <functional>
#include <memory>
#include <utility>

#include <troupe/rpc/transport.hpp>

namespace troupe::rpc::testing {

/// A transport that changes what is sent: a peer that keeps to the protocol as far as `meddle` lets it.
class Forger final : public Transport {
 public:
  Forger(std::unique_ptr<Transport> inner, std::function<void(OutFrame&)> meddle)
      : inner_(std::move(inner)), meddle_(std::move(meddle)) {}

  std::function<TransportEvents&(TransportEvents&)> between;  ///< who is told instead, and tells them
  bool is_distant = false;                                    ///< as if all peers were on other machines

  int poll() override { return inner_->poll(); }
  int event_fd() const override { return inner_->event_fd(); }
  bool arm() override { return inner_->arm(); }
  void set_events(TransportEvents& events) override {
    inner_->set_events(between ? between(events) : events);
  }
  Limits limits() const override { return inner_->limits(); }
  void bound_strangers(const StrangerBounds& bounds) override { inner_->bound_strangers(bounds); }
  void admit(LinkId link) override { inner_->admit(link); }
  bool is_local(std::string_view address) const override { return inner_->is_local(address); }
  bool can_share_memory(LinkId link) const override { return !is_distant && inner_->can_share_memory(link); }
  std::string peer_identity(LinkId link) const override { return inner_->peer_identity(link); }
  Result<std::string> listen(std::string_view address) override { return inner_->listen(address); }
  Result<LinkId> dial(std::string_view address) override { return inner_->dial(address); }
  void send_control(LinkId link, std::span<const std::byte> message) override {
    inner_->send_control(link, message);
  }
  std::vector<std::byte> data_address(LinkId link) override { return inner_->data_address(link); }
  Result<void> open_data(LinkId link, std::span<const std::byte> peer_data_address) override {
    return inner_->open_data(link, peer_data_address);
  }
  std::string describe_way(LinkId link) override { return inner_->describe_way(link); }
  Result<void> send(LinkId link, OutFrame&& frame) override {
    meddle_(frame);
    return inner_->send(link, std::move(frame));
  }
  std::size_t bytes_in_flight(LinkId link) const override { return inner_->bytes_in_flight(link); }
  void pause(LinkId link, bool paused) override { inner_->pause(link, paused); }
  void close(LinkId link) override { inner_->close(link); }

 private:
  std::unique_ptr<Transport> inner_;
  std::function<void(OutFrame&)> meddle_;
};

}  // namespace troupe::rpc::testing
