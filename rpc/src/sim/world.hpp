#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <troupe/rpc/sim.hpp>
#include <troupe/runtime/task.hpp>

namespace troupe::rpc {

class SimTransport;

/// Names a transport (a process) of the world; never reused.
using SimNodeId = std::uint64_t;

/// One message on its way: real bytes, so that what a receiver does to them is its own affair.
struct SimMessage {
  std::vector<std::byte> head;
  std::vector<std::byte> parts;  // of all parts, one after the other
};

/// Two ends of a link and what is under way between them.
struct SimConnection {
  struct End {
    SimNodeId node = 0;
    LinkId link = 0;      // 0: not met yet
    bool left = false;    // closed, or dead
    bool paused = false;  // takes no data just now
  };
  /// A control message, or the end of the link.
  struct Control {
    std::vector<std::byte> bytes;
    std::optional<Error> end;
    bool lost = false;  // with its sender
  };
  /// What goes from one end to the other. Control messages wait in `control`; an event in the heap only
  /// says that the next may be taken, so no delay can change their order.
  struct Direction {
    std::deque<Control> control;
    std::size_t unread =
        0;  // bytes that have left the sender's hands, but stay with it while the other end is paused
    std::size_t held = 0;      // events that met a cut, to be repeated when it is mended
    TimePoint busy_until{};    // bandwidth: when the last data message has left
    TimePoint data_arrival{};  // of the last data message that was not reordered
    TimePoint control_arrival{};
  };
  std::array<End, 2> ends;         // the dialling one first
  std::array<Direction, 2> lanes;  // lanes[i]: from ends[i]
};

/// The world's inside: virtual time, the network's events, the transports. Events are ordered by time,
/// and those of one time by when they were scheduled.
class SimNetwork {
 public:
  explicit SimNetwork(SimOptions world_options) : options(world_options), random(world_options.seed) {}

  // ---- Time ---------------------------------------------------------------------------------------
  TimePoint now() const { return clock.now(); }
  void at(TimePoint when, Task what);
  /// One round: network events that are due, then every loop once. Whether anything happened.
  bool round();
  /// Moves time to the next event, but not past `until`; false if there is none before.
  bool advance(TimePoint until);
  bool step(TimePoint until);

  // ---- Hosts --------------------------------------------------------------------------------------
  SimTransport* node(SimNodeId id) const;
  bool is_stopped(const std::string& host) const { return stopped.contains(host); }
  bool is_cut(SimNodeId a, SimNodeId b) const;
  void set_cut(const std::string& a, const std::string& b, bool cut);
  void kill(const std::string& host);
  static std::pair<std::string, std::string> pair_of(const std::string& a, const std::string& b) {
    return a < b ? std::pair(a, b) : std::pair(b, a);
  }

  // ---- Network ------------------------------------------------------------------------------------
  Duration travel_time();
  void dial(const std::shared_ptr<SimConnection>& connection, std::string address);
  void send_control(const std::shared_ptr<SimConnection>& connection, int from,
                    SimConnection::Control control, Duration extra = {});
  void send_data(const std::shared_ptr<SimConnection>& connection, int from, SimMessage message);
  /// The end takes no data, or takes it again.
  void pause(const std::shared_ptr<SimConnection>& connection, int end, bool on);

  SimOptions options;
  SimClock clock;
  std::mt19937_64 random;
  std::map<SimNodeId, SimTransport*> nodes;
  std::map<std::string, SimNodeId, std::less<>> listeners;
  std::map<std::string, int> next_port;
  SimNodeId next_node = 1;
  std::uint64_t messages = 0;  // sent so far

 private:
  struct Event {
    TimePoint when;
    std::uint64_t sequence;
    mutable Task what;  // moved out when it is taken from the heap
    bool operator>(const Event& other) const {
      return std::pair(when, sequence) > std::pair(other.when, other.sequence);
    }
  };

  bool chance(double probability);
  void take_control(const std::shared_ptr<SimConnection>& connection, int from);
  void arrive(const std::shared_ptr<SimConnection>& connection, int from, SimMessage message);
  void knock(const std::shared_ptr<SimConnection>& connection, const std::string& address);
  void refuse(const std::shared_ptr<SimConnection>& connection, const std::string& why, Duration after);
  void corrupt(SimMessage& message);

  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t sequence_ = 0;
  std::set<std::pair<std::string, std::string>> cuts_;
  std::vector<std::weak_ptr<SimConnection>> connections_;

 public:
  std::set<std::string> stopped;
};

class SimWorld::Impl final : public SimNetwork {
 public:
  using SimNetwork::SimNetwork;
};

}  // namespace troupe::rpc
