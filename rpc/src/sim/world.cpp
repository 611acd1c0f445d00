#include "sim/world.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "sim/transport.hpp"

namespace troupe::rpc {

namespace {

constexpr Duration kConnectTimeout = std::chrono::seconds(5);
/// A reordered message comes late by up to this many latencies.
constexpr double kReorderLatencies = 10;
constexpr int kMaxFlippedBits = 8;
/// Rounds without moving time after which a world is taken to be busy for ever.
constexpr int kMaxRounds = 1'000'000;

}  // namespace

// ---- Time -----------------------------------------------------------------------------------------

void SimNetwork::at(TimePoint when, Task what) {
  events_.push({std::max(when, now()), sequence_++, std::move(what)});
}

bool SimNetwork::round() {
  bool happened = false;
  while (!events_.empty() && events_.top().when <= now()) {
    Task what = std::move(events_.top().what);
    events_.pop();
    what();
    happened = true;
  }
  // By id, because a handler may make or end transports. Only loops that have something to do are driven: of
  // many nodes few have at any one time.
  for (auto next = nodes.begin(); next != nodes.end();) {
    SimTransport* transport = next->second;
    Loop& loop = transport->loop();
    if (!transport->running() || (!transport->has_mail() && loop.next_timer() > now() && !loop.has_tasks())) {
      ++next;
      continue;
    }
    const SimNodeId id = next->first;
    const Loop::Turn turn(loop);
    loop.refresh_now();
    happened |= loop.poll() > 0;
    next = nodes.upper_bound(id);
  }
  return happened;
}

bool SimNetwork::advance(TimePoint until) {
  TimePoint next = events_.empty() ? TimePoint::never() : events_.top().when;
  for (const auto& [id, transport] : nodes) {
    if (transport->running()) next = std::min(next, transport->loop().next_timer());
  }
  if (next > until || next == TimePoint::never()) {
    if (until > now() && until != TimePoint::never()) clock.advance_to(until);
    return false;
  }
  if (next > now()) clock.advance_to(next);
  return true;
}

bool SimNetwork::step(TimePoint until) {
  int rounds = 0;
  while (round() && ++rounds < kMaxRounds) continue;
  return advance(until);
}

// ---- Hosts ----------------------------------------------------------------------------------------

SimTransport* SimNetwork::node(SimNodeId id) const {
  const auto found = nodes.find(id);
  return found == nodes.end() ? nullptr : found->second;
}

bool SimNetwork::is_cut(SimNodeId a, SimNodeId b) const {
  const SimTransport* first = node(a);
  const SimTransport* second = node(b);
  return first && second && cuts_.contains(pair_of(first->host(), second->host()));
}

void SimNetwork::set_cut(const std::string& a, const std::string& b, bool cut) {
  if (cut) {
    cuts_.insert(pair_of(a, b));
    return;
  }
  cuts_.erase(pair_of(a, b));
  std::erase_if(connections_, [](const auto& connection) { return connection.expired(); });
  for (const auto& weak : connections_) {
    const auto connection = weak.lock();
    if (!connection || is_cut(connection->ends[0].node, connection->ends[1].node)) continue;
    for (const int from : {0, 1}) {
      const TimePoint when = now() + travel_time();
      for (; connection->lanes[from].held > 0; --connection->lanes[from].held) {
        at(when, [this, connection, from] { take_control(connection, from); });
      }
    }
  }
}

void SimNetwork::kill(const std::string& host) {
  for (const auto& [id, transport] : nodes) {
    if (transport->host() == host && transport->alive()) transport->die();
  }
}

// ---- Network --------------------------------------------------------------------------------------

bool SimNetwork::chance(double probability) {
  return probability > 0 && std::uniform_real_distribution<double>(0, 1)(random) < probability;
}

Duration SimNetwork::travel_time() {
  const auto jitter = std::uniform_int_distribution<std::int64_t>(0, options.latency_jitter.count())(random);
  return options.latency + Duration(jitter);
}

void SimNetwork::dial(const std::shared_ptr<SimConnection>& connection, std::string address) {
  connections_.emplace_back(connection);
  at(now() + travel_time(), [this, connection, to = std::move(address)] { knock(connection, to); });
}

/// The dialling host's packet has come to where it was sent.
void SimNetwork::knock(const std::shared_ptr<SimConnection>& connection, const std::string& address) {
  const SimTransport* dialler = node(connection->ends[0].node);
  if (!dialler || connection->ends[0].left) return;
  const auto found = listeners.find(address);
  if (found == listeners.end()) {
    return refuse(connection, "cannot reach " + address + ": nobody listens there", travel_time());
  }
  SimTransport* target = node(found->second);
  if (is_cut(dialler->id(), target->id())) {
    return refuse(connection, "cannot reach " + address + ": no answer within 5 s", kConnectTimeout);
  }
  if (!target->accept(connection, dialler->host()))
    return refuse(connection, "cannot reach " + address + ": too many others wait there", travel_time());
  TimePoint& answer = connection->lanes[1].control_arrival;  // no control message overtakes it
  answer = now() + travel_time();
  at(answer, [this, connection] {
    SimTransport* waiting = node(connection->ends[0].node);
    if (waiting && waiting->alive()) waiting->connected(connection->ends[0].link);
  });
}

void SimNetwork::refuse(const std::shared_ptr<SimConnection>& connection, const std::string& why,
                        Duration after) {
  at(now() + after, [this, connection, why] {
    SimTransport* dialler = node(connection->ends[0].node);
    if (!dialler || !dialler->alive()) return;
    dialler->receive_control(connection->ends[0].link, {{}, Error{Code::kUnavailable, why}});
  });
}

void SimNetwork::send_control(const std::shared_ptr<SimConnection>& connection, int from,
                              SimConnection::Control control, Duration extra) {
  SimConnection::Direction& lane = connection->lanes[from];
  if (!control.end) ++messages;
  lane.control.push_back(std::move(control));
  lane.control_arrival = std::max(lane.control_arrival, now() + travel_time() + extra);
  at(lane.control_arrival, [this, connection, from] { take_control(connection, from); });
}

void SimNetwork::take_control(const std::shared_ptr<SimConnection>& connection, int from) {
  SimConnection::Direction& lane = connection->lanes[from];
  const SimConnection::End& to = connection->ends[1 - from];
  if (is_cut(connection->ends[from].node, to.node)) {
    ++lane.held;
    return;
  }
  SimConnection::Control control = std::move(lane.control.front());
  lane.control.pop_front();
  if (control.lost) return;
  SimTransport* target = node(to.node);
  if (target && target->alive() && to.link != 0 && !to.left)
    target->receive_control(to.link, std::move(control));
}

void SimNetwork::send_data(const std::shared_ptr<SimConnection>& connection, int from, SimMessage message) {
  SimConnection::Direction& lane = connection->lanes[from];
  ++messages;
  const std::size_t bytes = message.head.size() + message.parts.size();
  const Duration sending(
      static_cast<std::int64_t>(std::ceil(static_cast<double>(bytes) * 1e9 / options.bytes_per_second)));
  lane.busy_until = std::max(lane.busy_until, now()) + sending;
  TimePoint when = std::max(lane.busy_until + travel_time(), lane.data_arrival);
  if (chance(options.reordering)) {
    const double late = std::uniform_real_distribution<double>(0, kReorderLatencies)(random);
    when = when + Duration(static_cast<std::int64_t>(late * static_cast<double>(options.latency.count())));
  } else {
    lane.data_arrival = when;
  }
  at(lane.busy_until, [this, connection, from, bytes] {
    if (connection->ends[1 - from].paused) {
      connection->lanes[from].unread += bytes;
      return;
    }
    SimTransport* sender = node(connection->ends[from].node);
    if (sender) sender->sent(connection->ends[from].link, bytes);
  });
  if (chance(options.loss)) return;
  const bool twice = chance(options.duplication);
  if (twice) {
    at(when + travel_time(), [this, connection, from, copy = message] { arrive(connection, from, copy); });
  }
  if (chance(options.corruption)) corrupt(message);
  at(when, [this, connection, from, taken = std::move(message)]() mutable {
    arrive(connection, from, std::move(taken));
  });
}

void SimNetwork::pause(const std::shared_ptr<SimConnection>& connection, int end, bool on) {
  connection->ends[end].paused = on;
  if (on) return;
  const std::size_t bytes = std::exchange(connection->lanes[1 - end].unread, 0);
  SimTransport* sender = node(connection->ends[1 - end].node);
  if (sender) sender->sent(connection->ends[1 - end].link, bytes);
}

void SimNetwork::arrive(const std::shared_ptr<SimConnection>& connection, int from, SimMessage message) {
  const SimConnection::End& sender = connection->ends[from];
  const SimConnection::End& to = connection->ends[1 - from];
  SimTransport* target = node(to.node);
  if (!target || !target->alive() || to.left || is_cut(sender.node, to.node)) return;
  const SimTransport* source = node(sender.node);
  if (source && !source->alive()) return;  // what a killed host had under way is lost with it
  target->receive_data(to.link, std::move(message));
}

void SimNetwork::corrupt(SimMessage& message) {
  const int flips = std::uniform_int_distribution<int>(1, kMaxFlippedBits)(random);
  for (int i = 0; i < flips; ++i) {
    const bool in_head = message.parts.empty() || chance(0.5);
    std::vector<std::byte>& bytes = in_head ? message.head : message.parts;
    const auto bit = std::uniform_int_distribution<std::size_t>(0, bytes.size() * 8 - 1)(random);
    bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
  }
}

// ---- The public face ------------------------------------------------------------------------------

SimWorld::SimWorld(SimOptions options) : impl_(std::make_unique<Impl>(options)) {}

SimWorld::~SimWorld() {
  assert(impl_->nodes.empty() && "a transport outlives its world");
}

Clock& SimWorld::clock() {
  return impl_->clock;
}

SimOptions& SimWorld::options() {
  return impl_->options;
}

LoopOptions SimWorld::loop_options() {
  LoopOptions options;
  options.idle = [impl = impl_.get()](TimePoint until) {
    // If anything happened, the waiting loop looks first whether that was it: time stands still.
    if (!impl->round()) impl->advance(until);
  };
  return options;
}

std::unique_ptr<Transport> SimWorld::make_transport(Loop& loop, std::string host) {
  return std::make_unique<SimTransport>(*impl_, loop, std::move(host));
}

bool SimWorld::step(TimePoint until) {
  return impl_->step(until);
}

bool SimWorld::run_until(const std::function<bool()>& done, TimePoint deadline) {
  while (!done()) {
    if (impl_->round()) continue;
    if (done()) return true;
    if (impl_->advance(deadline)) continue;
    while (!done() && impl_->round()) continue;  // what is due exactly at the deadline
    return done();
  }
  return true;
}

bool SimWorld::run_for(Duration duration) {
  const TimePoint until = impl_->now() + duration;
  bool more = true;
  while (more) more = impl_->step(until);
  while (impl_->round()) continue;
  return true;
}

std::uint64_t SimWorld::messages() const {
  return impl_->messages;
}

void SimWorld::kill(std::string_view host) {
  impl_->kill(std::string(host));
}

void SimWorld::stop(std::string_view host) {
  impl_->stopped.emplace(host);
}

void SimWorld::resume(std::string_view host) {
  impl_->stopped.erase(std::string(host));
}

void SimWorld::set_partition(std::string_view a, std::string_view b, bool cut) {
  impl_->set_cut(std::string(a), std::string(b), cut);
}

}  // namespace troupe::rpc
