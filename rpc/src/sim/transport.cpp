#include "sim/transport.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include <troupe/runtime/host_port.hpp>

namespace troupe::rpc {

namespace {

/// What a simulated data address holds; checked like a real one, because it comes from the wire.
struct DataAddress {
  std::uint32_t magic = 0;
  std::uint32_t zero = 0;
  SimNodeId node = 0;
  LinkId link = 0;
};
constexpr std::uint32_t kMagic = 0x316d6953;  // "Sim1"

constexpr int kFirstPort = 40000;

Error no_such_link() {
  return {Code::kUnavailable, "the link to the peer is closed"};
}

/// The port of "name:port", -1 if `address` is not of this form.
int port_of(std::string_view address) {
  const auto parts = parse_host_port(address);
  return parts ? parts->port : -1;
}

Error not_an_address(std::string_view address) {
  return {Code::kInvalidArgument,
          "'" + std::string(address) + "' is not an address of the simulated network: write host:port"};
}

}  // namespace

SimTransport::SimTransport(SimNetwork& world, Loop& loop, std::string host)
    : world_(world), loop_(loop), host_(std::move(host)), id_(world.next_node++) {
  const Loop::Turn turn(loop_);
  world_.nodes.emplace(id_, this);
  loop_.add_source(*this);
}

SimTransport::~SimTransport() {
  const Loop::Turn turn(loop_);
  loop_.remove_source(*this);
  for (const LinkId link : links_.ids()) close(link);
  std::erase_if(world_.listeners, [this](const auto& listener) { return listener.second == id_; });
  world_.nodes.erase(id_);
}

int SimTransport::poll() {
  if (!running()) return 0;
  int handled = 0;
  for (std::size_t left = inbox_.size(); left > 0 && !inbox_.empty() && running(); --left) {
    Task event = std::move(inbox_.front());
    inbox_.pop_front();
    event();
    ++handled;
  }
  return handled;
}

void SimTransport::die() {
  alive_ = false;
  inbox_.clear();
  std::erase_if(world_.listeners, [this](const auto& listener) { return listener.second == id_; });
  for (const LinkId id : links_.ids()) {
    const Link& link = *links_.find(id);
    link.connection->ends[link.side].left = true;
    for (auto& control : link.connection->lanes[link.side].control) control.lost = true;
    const Error error{Code::kUnavailable, "lost peer " + host_ + ": its process has died"};
    world_.send_control(link.connection, link.side, {{}, error}, world_.options.death_notice);
  }
}

// ---- Links ----------------------------------------------------------------------------------------

Result<std::string> SimTransport::listen(std::string_view address) {
  const int port = port_of(address);
  if (port < 0) return not_an_address(address);
  std::string name(address);
  if (port == 0) {
    int& next = world_.next_port.try_emplace(host_, kFirstPort).first->second;
    name = host_ + ":" + std::to_string(next++);
  }
  if (!world_.listeners.emplace(name, id_).second) {
    return Error{Code::kAlreadyExists, "cannot listen at " + name +
                                           ": another process listens there; stop it or choose another port "
                                           "(port 0 takes a free one)"};
  }
  return name;
}

Result<LinkId> SimTransport::dial(std::string_view address) {
  if (port_of(address) < 0) return not_an_address(address);
  auto connection = std::make_shared<SimConnection>();
  Link* link = links_.emplace(connection, 0);
  if (!link) return Error{Code::kResourceExhausted, "a transport can have at most 1,048,576 links"};
  connection->ends[0] = {id_, link->id, false};
  world_.dial(connection, std::string(address));
  return link->id;
}

bool SimTransport::accept(const std::shared_ptr<SimConnection>& connection, std::string peer_address) {
  if (waiting_strangers_ >= strangers_.max_links) return false;
  Link* link = links_.emplace(connection, 1);
  if (!link) return false;
  ++waiting_strangers_;
  connection->ends[1] = {id_, link->id, false};
  link->met = true;
  inbox_.emplace_back([this, id = link->id, peer = std::move(peer_address)] {
    if (links_.find(id)) events_->on_link(id, peer, true);
  });
  return true;
}

void SimTransport::admit(LinkId id) {
  Link* link = links_.find(id);
  if (!link || std::exchange(link->admitted, true)) return;
  if (link->side == 1) --waiting_strangers_;
}

void SimTransport::connected(LinkId id) {
  inbox_.emplace_back([this, id] {
    Link* link = links_.find(id);
    if (!link) return;
    link->met = true;
    const SimTransport* peer = world_.node(link->connection->ends[1].node);
    events_->on_link(id, peer ? peer->host() : std::string("gone"), false);
  });
}

void SimTransport::close(LinkId id) {
  const auto link = links_.remove(id);
  if (!link) return;
  if (link->side == 1 && !link->admitted) --waiting_strangers_;
  link->connection->ends[link->side].left = true;
  const Error error{Code::kUnavailable, "lost peer " + host_ + ": it closed the connection"};
  world_.send_control(link->connection, link->side, {{}, error});
}

void SimTransport::fail(LinkId id, Error error) {
  close(id);
  events_->on_closed(id, std::move(error));
}

// ---- Control --------------------------------------------------------------------------------------

void SimTransport::send_control(LinkId id, std::span<const std::byte> message) {
  const Link* link = links_.find(id);
  if (!link || !link->met || !alive_) return;
  world_.send_control(link->connection, link->side, {{message.begin(), message.end()}, {}});
}

void SimTransport::receive_control(LinkId id, SimConnection::Control control) {
  inbox_.emplace_back([this, id, received = std::move(control)]() mutable {
    const Link* link = links_.find(id);
    if (!link) return;
    if (received.end) {
      pause(id, false);
      deliver_held(id);
      if (links_.find(id)) fail(id, std::move(*received.end));
      return;
    }
    const std::size_t most = link->admitted ? limits_.max_control_bytes : strangers_.max_control_bytes;
    if (received.bytes.size() > most)
      return fail(id, {Code::kDataLoss, "the peer sent a control message of " +
                                            std::to_string(received.bytes.size()) + " bytes, more than the " +
                                            std::to_string(most) + " allowed"});
    events_->on_control(id, received.bytes);
  });
}

// ---- Data -----------------------------------------------------------------------------------------

std::vector<std::byte> SimTransport::data_address(LinkId id) {
  if (!links_.find(id)) return {};
  const DataAddress address{kMagic, 0, id_, id};
  const auto* bytes = reinterpret_cast<const std::byte*>(&address);
  return {bytes, bytes + sizeof address};
}

Result<void> SimTransport::open_data(LinkId id, std::span<const std::byte> peer_data_address) {
  Link* link = links_.find(id);
  if (!link || !link->met) return no_such_link();
  if (link->open) return Error{Code::kFailedPrecondition, "the link's data way is open already"};
  DataAddress address;
  if (peer_data_address.size() == sizeof address) {
    std::memcpy(&address, peer_data_address.data(), sizeof address);
  }
  const SimConnection::End& peer = link->connection->ends[1 - link->side];
  if (address.magic != kMagic || address.node != peer.node || address.link != peer.link) {
    return Error{Code::kInvalidArgument, "the peer's data address is malformed"};
  }
  link->open = true;
  return {};
}

Result<void> SimTransport::send(LinkId id, OutFrame&& frame) {
  Link* link = links_.find(id);
  if (!link || !alive_) return no_such_link();
  if (!link->open) return Error{Code::kUnavailable, "the link's data way is not open yet"};
  if (frame.head.empty() || frame.head.size() > limits_.max_head_bytes) {
    return Error{Code::kInvalidArgument, "a message's head must have 1 to " +
                                             std::to_string(limits_.max_head_bytes) + " bytes, not " +
                                             std::to_string(frame.head.size())};
  }
  SimMessage message;
  const auto head = frame.head.bytes();
  message.head.assign(head.begin(), head.end());
  for (const Buffer& part : frame.parts) {
    const auto bytes = part.bytes();
    message.parts.insert(message.parts.end(), bytes.begin(), bytes.end());
  }
  link->bytes_in_flight += message.head.size() + message.parts.size();
  world_.send_data(link->connection, link->side, std::move(message));
  return {};
}

void SimTransport::sent(LinkId id, std::size_t bytes) {
  if (Link* link = links_.find(id)) link->bytes_in_flight -= bytes;
}

void SimTransport::receive_data(LinkId id, SimMessage message) {
  inbox_.emplace_back([this, id, received = std::move(message)]() mutable { take(id, std::move(received)); });
}

void SimTransport::take(LinkId id, SimMessage&& message) {
  Link* link = links_.find(id);
  if (!link) return;
  if (!link->paused && link->held.empty()) return deliver(id, message);
  link->held.push_back(std::move(message));
}

void SimTransport::pause(LinkId id, bool on) {
  Link* link = links_.find(id);
  if (!link || std::exchange(link->paused, on) == on) return;
  world_.pause(link->connection, link->side, on);
  if (!on && !link->held.empty()) inbox_.emplace_back([this, id] { deliver_held(id); });
}

void SimTransport::deliver_held(LinkId id) {
  for (;;) {  // found anew each time: a handler may close it
    Link* link = links_.find(id);
    if (!link || link->paused || link->held.empty()) return;
    const SimMessage message = std::move(link->held.front());
    link->held.pop_front();
    deliver(id, message);
  }
}

void SimTransport::deliver(LinkId id, const SimMessage& message) {
  if (!links_.find(id)) return;
  Buffer head = Buffer::copy_of(message.head);
  std::vector<Buffer> parts;
  if (!message.parts.empty()) {
    if (auto given = events_->on_parts(id, head.bytes(), message.parts.size(), parts); !given) {
      return fail(id, given.error());
    }
    std::size_t sum = 0;
    for (const Buffer& part : parts) sum += part.size();
    if (sum != message.parts.size()) {
      return fail(id, {Code::kInternal, "buffers of " + std::to_string(sum) + " bytes were given for " +
                                            std::to_string(message.parts.size()) + " bytes of parts"});
    }
    const std::byte* from = message.parts.data();
    for (const Buffer& part : parts) {
      std::copy_n(from, part.size(), part.data());
      from += part.size();
    }
  }
  events_->on_frame(id, std::move(head), std::move(parts));
}

std::size_t SimTransport::bytes_in_flight(LinkId id) const {
  const Link* link = links_.find(id);
  return link ? link->bytes_in_flight : 0;
}

}  // namespace troupe::rpc
