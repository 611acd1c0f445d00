// A peer: meeting it, and mapping its memory. Whether it lives: liveness.cpp.
#include "session/session.hpp"

#include <unistd.h>

#include <algorithm>
#include <cassert>

#include "calls/answers.hpp"
#include "device/device_tensors.hpp"
#include "endpoint/core_sources.hpp"
#include "wire/capnp_support.hpp"

namespace troupe::rpc {

namespace {

void write_gpus(wire::Hello::Builder hello, const std::vector<PeerGpu>& gpus) {
  auto list = hello.initGpus(static_cast<unsigned>(gpus.size()));
  const auto copy = [](capnp::Data::Builder to, std::span<const std::byte> from) {
    std::memcpy(to.begin(), from.data(), from.size());
  };
  for (unsigned i = 0; i < gpus.size(); ++i) {
    copy(list[i].initUuid(gpus[i].uuid.size()), gpus[i].uuid);
    if (gpus[i].probe.id == 0) continue;
    copy(list[i].initHandle(gpus[i].probe.handle.size()), gpus[i].probe.handle);
    list[i].setSlab(gpus[i].probe.id);
  }
}

/// What is malformed reads as a GPU of which nothing can be mapped.
std::vector<PeerGpu> read_gpus(wire::Hello::Reader hello) {
  std::vector<PeerGpu> gpus;
  for (const auto gpu : hello.getGpus()) {
    if (gpus.size() == kMostGpus) break;
    PeerGpu& read = gpus.emplace_back();
    const auto uuid = bytes_of(gpu.getUuid());
    const auto handle = bytes_of(gpu.getHandle());
    if (uuid.size() == read.uuid.size()) std::ranges::copy(uuid, read.uuid.begin());
    if (handle.size() != read.probe.handle.size()) continue;
    std::ranges::copy(handle, read.probe.handle.begin());
    read.probe.id = gpu.getSlab();
  }
  return gpus;
}

/// No more than there may be, and one.
std::vector<Reach> read_reaches(capnp::List<wire::Reach>::Reader list) {
  std::vector<Reach> reaches;
  for (const auto reach : list) {
    reaches.push_back({reach.getOwner(), reach.getReader()});
    if (reaches.size() > kMostGpus * kMostGpus) break;
  }
  return reaches;
}

}  // namespace

Session::Session(EndpointCore& endpoint, LinkId link, Peer peer)
    : calls(endpoint.random_()),
      endpoint_(endpoint),
      link_(link),
      peer_(std::move(peer)),
      queue_(endpoint.waiting_) {
  place.push_back(std::make_shared<EndedSession>());
}

/// Destroys this.
void Session::end(Error why) {
  endpoint_.end_session(link_, std::move(why), true);
}

void Session::say_goodbye(const Error& why) {
  if (state_ < State::kMeeting) return;
  send_control(*endpoint_.transport_, link_, [&](wire::Control::Builder control) {
    const std::string_view text = clipped(why.message, kMostReason);
    copy_text(control.initGoodbye(static_cast<unsigned>(text.size())), text);
  });
}

// ---- Meeting ------------------------------------------------------------------------------------

void Session::send_hello() {
  const auto address = endpoint_.transport_->data_address(link_);
  send_control(*endpoint_.transport_, link_, [&](wire::Control::Builder control) {
    auto hello = control.initHello();
    hello.setProtocolVersion(endpoint_.options_.protocol_version);
    hello.setNodeId(endpoint_.options_.node_id);
    const std::string_view name = clipped(endpoint_.options_.node_name, kMostNodeName);
    copy_text(hello.initNodeName(static_cast<unsigned>(name.size())), name);
    const bool shares = endpoint_.transport_->can_share_memory(link_);
    if (const auto probe = shares ? endpoint_.shared_pool_.probe() : std::nullopt) {
      probe_told_ = true;
      hello.setPoolPid(static_cast<std::uint32_t>(::getpid()));
      hello.setPoolFd(probe->fd);
      hello.setPoolCookie(probe->cookie);
      if (endpoint_.devices_) {
        memory_.devices.told = true;
        write_gpus(hello, endpoint_.devices_->own_gpus(endpoint_.options_.map_gpu_memory));
      }
    }
    auto data = hello.initDataAddress(static_cast<unsigned>(address.size()));
    if (!address.empty()) std::memcpy(data.begin(), address.data(), address.size());
  });
}

void Session::on_control(std::span<const std::byte> message) {
  life.heard = endpoint_.loop_.now();
  const auto greeting_of = [](wire::Greeting::Reader greeting) {
    return Greeting{greeting.getScheme(), greeting.getNodeId(), bytes_of(greeting.getNonce())};
  };
  try {
    // Control messages come out of a byte stream, so they lie anywhere; Cap'n Proto wants 8-byte alignment.
    auto words = kj::heapArray<capnp::word>(message.size() / sizeof(capnp::word));
    if (!message.empty()) std::memcpy(words.begin(), message.data(), words.asBytes().size());
    capnp::FlatArrayMessageReader reader(words, reader_options(message.size()));
    auto control = reader.getRoot<wire::Control>();
    if (state_ < State::kMeeting && control.which() < wire::Control::GREETING &&
        control.which() != wire::Control::REFUSAL)
      return refuse({Code::kUnauthenticated,
                     "this node demands proof of a shared secret before anything else: give all nodes "
                     "the same (node.secret, node.secret_file)"});
    switch (control.which()) {
      case wire::Control::HELLO: {
        auto hello = control.getHello();
        if (state_ == State::kMeeting) {
          memory_.set_owner(static_cast<pid_t>(hello.getPoolPid()),
                            {hello.getPoolFd(), hello.getPoolCookie(), 0});
          memory_.devices.gpus = read_gpus(hello);
        }
        return on_hello({hello.getNodeId(), std::string(to_view(hello.getNodeName())), peer_.address,
                         peer_.incoming, !endpoint_.options_.secret.empty()},
                        bytes_of(hello.getDataAddress()), hello.getProtocolVersion());
      }
      case wire::Control::REFUSAL:
        return end(with_context(read_error(control.getRefusal()), "refused by the peer at " + peer_.address));
      case wire::Control::READY:
        return on_ready();
      case wire::Control::HEARTBEAT:
        return on_heartbeat(control.getHeartbeat());
      case wire::Control::ALIVE:
        if (!met()) break;
        return endpoint_.events_.on_news(link_, control.getAlive());
      case wire::Control::GOODBYE:
        return end({Code::kUnavailable, "the node has left: " + std::string(to_view(control.getGoodbye()))});
      case wire::Control::GREETING:
        return on_greeting(greeting_of(control.getGreeting()), false);
      case wire::Control::CHALLENGE:
        return on_greeting(greeting_of(control.getChallenge()), true);
      case wire::Control::PROOF:
        return on_proof(bytes_of(control.getProof()));
      case wire::Control::MAPPING:
        if (state_ != State::kOpening || !probe_told_) break;
        memory_.peer_maps = true;
        return;
      case wire::Control::REACHES:
        if (!on_reaches(read_reaches(control.getReaches()))) break;
        return;
      case wire::Control::SLABS_GONE:
        if (!met() || memory_.devices.gpus.empty()) break;
        for (const std::uint64_t slab : control.getSlabsGone()) endpoint_.forget_slab(*this, slab);
        return;
    }
    end({Code::kDataLoss, "a control message came that is unknown, or out of order"});
  } catch (const kj::Exception& exception) {
    end({Code::kDataLoss, "a malformed control message came: " + describe(exception)});
  }
}

void Session::on_hello(const Peer& peer, std::span<const std::byte> data_address, std::uint32_t version) {
  const auto no = [&](Code code, std::string why) {
    refuse({code, std::move(why), endpoint_.options_.node_name});
  };
  if (state_ != State::kMeeting) return no(Code::kFailedPrecondition, "a second hello on one link");
  if (version != endpoint_.options_.protocol_version)
    return no(Code::kFailedPrecondition,
              "protocol version " + std::to_string(version) + " of node '" + peer.node_name +
                  "' is not version " + std::to_string(endpoint_.options_.protocol_version) + " of node '" +
                  endpoint_.options_.node_name + "'; run the same release of Troupe on both");
  if (peer.node_id == 0) return no(Code::kInvalidArgument, "a hello without a node id");
  if (peer.node_name.size() > kMostNodeName)
    return no(Code::kInvalidArgument,
              "a node's name has at most " + std::to_string(kMostNodeName) + " bytes");
  const auto& terms = terms_;
  if (!endpoint_.options_.secret.empty() &&
      peer.node_id != (peer.incoming ? terms.dialling_node : terms.listening_node))
    return no(Code::kUnauthenticated, "the hello is of another node than the proof");
  EndpointCore& endpoint = endpoint_;
  const SessionId id = link_;
  const Result<void> may = endpoint.events_.may_meet(peer);
  if (!endpoint.find(id)) return;  // who is asked may end sessions
  if (!may) return no(may.error().code, may.error().message);
  if (auto opened = endpoint_.transport_->open_data(link_, data_address); !opened)
    return no(opened.error().code, "no way for data: " + opened.error().message);
  endpoint_.transport_->admit(link_);
  peer_ = peer;
  if (peer.authenticated) peer_.identity = endpoint_.options_.secret_identity;
  calls.belong_to(endpoint_.nodes_.of(peer.node_id, endpoint_.random_()));
  calls.node->sessions.insert(link_);
  if (peer.incoming) send_hello();
  open_peer_memory();
  if (!endpoint.find(id)) return;  // likewise who is told of the way that device tensors take
  state_ = State::kOpening;
  send_control(*endpoint_.transport_, link_, [](wire::Control::Builder control) { control.setReady(); });
}

void Session::on_ready() {
  if (state_ != State::kOpening) return end({Code::kDataLoss, "'ready' came before hello, or twice"});
  state_ = State::kReady;
  const SessionId id = link_;
  peer_.way = endpoint_.transport_->describe_way(link_);
  const Peer peer = peer_;
  EndpointCore& endpoint = endpoint_;
  if (!queue_.empty()) endpoint.pump_->add(*this);
  return_leases();  // of tensors that came, and went, before this word did
  endpoint.send_waiting(id);
  if (endpoint.find(id)) endpoint.events_.on_session(id, peer);
}

// ---- Memory that is mapped instead of copied ------------------------------------------------------

void Session::open_peer_memory() {
  if (!endpoint_.transport_->can_share_memory(link_) || endpoint_.options_.shared.max_bytes == 0) return;
  const auto flush = [&endpoint = endpoint_, id = link_] {
    if (Session* session = endpoint.find(id)) session->return_leases();
  };
  if (memory_.open_probe(endpoint_.loop_, flush))
    send_control(*endpoint_.transport_, link_, [](wire::Control::Builder control) { control.setMapping(); });
  if (memory_.maps_peer() && endpoint_.devices_ && !memory_.devices.gpus.empty())
    endpoint_.meet_devices(*this);
}

bool Session::on_reaches(std::vector<Reach> reaches) {
  PeerDevices& devices = memory_.devices;
  const bool again = std::exchange(devices.answered, true);
  if (!met() || !devices.told || (again && reaches.size() >= devices.it_reaches.size())) return false;
  if (reaches.size() > (endpoint_.options_.map_gpu_memory ? kMostGpus * kMostGpus : 0)) return false;
  devices.it_reaches = std::move(reaches);
  return true;
}

void Session::tell_slabs_gone(std::span<const std::uint64_t> slabs) {
  constexpr std::size_t kBatch = 64;
  for (std::size_t at = 0; at < slabs.size(); at += kBatch) {
    const auto some = slabs.subspan(at, std::min(kBatch, slabs.size() - at));
    send_control(*endpoint_.transport_, link_, [&](wire::Control::Builder control) {
      auto list = control.initSlabsGone(static_cast<unsigned>(some.size()));
      for (unsigned i = 0; i < some.size(); ++i) list.set(i, some[i]);
    });
  }
}

void Session::tell_reaches() {
  send_control(*endpoint_.transport_, link_, [&](wire::Control::Builder control) {
    const std::vector<Reach>& reaches = memory_.devices.we_reach;
    auto list = control.initReaches(static_cast<unsigned>(reaches.size()));
    for (unsigned i = 0; i < reaches.size(); ++i) {
      list[i].setOwner(reaches[i].owner);
      list[i].setReader(reaches[i].reader);
    }
  });
}

/// Those that cannot be told now, for want of memory, are told with the next ones. May end this session.
void Session::return_leases() {
  if (!ready()) return;
  EndpointCore& endpoint = endpoint_;
  const SessionId id = link_;
  auto leases = memory_.leases_to_return();
  constexpr std::size_t kBatch = 256;  // fits in an envelope
  while (!leases.empty()) {
    const auto batch = std::span(leases).last(std::min(kBatch, leases.size()));
    auto frame = endpoint.encode({MessageKind::kRelease, 0, 0, 0, 0, Duration{0}, {}}, [&](OutMessage& out) {
      out.values(1);
      out.value(0).numbers(DType::kUInt64, std::as_bytes(batch));
    });
    Session* const session = endpoint.find(id);
    if (!session) return;
    if (!frame) return session->memory_.return_later(std::move(leases));
    leases.resize(leases.size() - batch.size());
    (void)endpoint.send_frame(id, std::move(*frame), Flow::kUrgent);
  }
}

bool Session::take_back_leases(const InMessage& message) {
  std::span<const std::byte> bytes;
  if (message.value_count() != 1 || !message.value(0).read_numbers(DType::kUInt64, bytes) ||
      bytes.size() % sizeof(std::uint64_t) != 0)
    return false;
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(std::uint64_t)) {
    std::uint64_t lease = 0;
    std::memcpy(&lease, bytes.data() + at, sizeof lease);
    memory_.take_back(lease);
  }
  return true;
}

}  // namespace troupe::rpc
