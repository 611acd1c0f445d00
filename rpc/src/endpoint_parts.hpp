#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <troupe/rpc/endpoint.hpp>
#include <troupe/runtime/timer.hpp>

#include "meeting/proof.hpp"

namespace troupe::rpc {

/// One link and what both sides have said on it so far.
struct Endpoint::Session {
  enum class State {
    kDialling,  // on_link has not come yet
    kGreeting,  // there is a secret: waiting for the other's greeting or challenge
    kProving,   // waiting for the other's proof
    kMeeting,   // waiting for the other's hello
    kOpening,   // hello came, our data way is open; waiting for the other's `ready`
    kReady,     // calls flow
  };

  explicit Session(LinkId id) : link(id) {}

  LinkId link;
  State state = State::kDialling;
  Peer peer;
  TimePoint begun{};
  TimePoint last_heard{};
  TimePoint last_said{};
  std::uint64_t heartbeats = 0;
  MeetingTerms terms;  // what has been said before the hello

  /// What was sent before kReady.
  struct Waiting {
    OutFrame frame;
    std::uint64_t call_id = 0;  // of the open call that it makes; 0: it makes none
  };
  std::vector<Waiting> waiting;
  std::size_t waiting_bytes = 0;

  const std::string& name() const { return peer.node_name.empty() ? peer.address : peer.node_name; }
};

/// A greeting or a challenge, as it came.
struct Endpoint::Greeting {
  std::uint16_t scheme = 0;
  std::uint64_t node_id = 0;
  std::span<const std::byte> nonce;
};

/// A call of ours that has no answer yet; its timer is its deadline.
struct Endpoint::OpenCall final : TimerNode {
  OpenCall(Endpoint& owner, std::uint32_t own_slot) : endpoint(owner), slot(own_slot) {}
  std::uint64_t id() const { return (std::uint64_t{generation} << 32) | slot; }  // never 0

  Endpoint& endpoint;
  std::uint32_t slot;
  std::uint32_t generation = 1;
  ReplySink* sink = nullptr;  // null: the slot is free
  CallTarget target;

 private:
  void on_timer() override;
};

struct Endpoint::Heartbeat final : TimerNode {
  explicit Heartbeat(Endpoint& owner) : endpoint(owner) {}
  Endpoint& endpoint;

 private:
  void on_timer() override { endpoint.on_heartbeat(); }
};

/// Fires when messages of an endpoint to itself wait.
struct Endpoint::LocalDelivery final : TimerNode {
  explicit LocalDelivery(Endpoint& owner) : endpoint(owner) {}
  Endpoint& endpoint;

 private:
  void on_timer() override { endpoint.deliver_waiting_local(); }
};

}  // namespace troupe::rpc
