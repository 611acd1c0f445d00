// The links between endpoints: how they begin, and what they end. Whether a peer lives: liveness.cpp.
#include <unistd.h>

#include <algorithm>
#include <cassert>

#include <troupe/rpc/endpoint.hpp>

#include "calls/answers.hpp"
#include "endpoint/endpoint_parts.hpp"
#include "wire/capnp_support.hpp"

namespace troupe::rpc {

Endpoint::Session* Endpoint::look_up(SessionId session) {
  const auto found = sessions_.find(session);
  return found == sessions_.end() ? nullptr : last_found_ = found->second.get();
}

const Peer* Endpoint::peer(SessionId session) const {
  const auto found = sessions_.find(session);
  return found == sessions_.end() ? nullptr : &found->second->peer;
}

bool Endpoint::ready(SessionId session) const {
  const auto found = sessions_.find(session);
  return session == kLocal || (found != sessions_.end() && found->second->state == Session::State::kReady);
}

Result<std::string> Endpoint::listen(std::string_view address) {
  if (auto may = may_meet_at(address); !may) return may.error();
  return transport_->listen(address);
}

Result<SessionId> Endpoint::connect(std::string_view address) {
  if (closing_) return Error{Code::kCancelled, "the node shuts down"};
  if (auto may = may_meet_at(address); !may) return may.error();
  auto link = transport_->dial(address);
  if (!link) return link.error();
  auto session = std::make_unique<Session>(*link);
  session->peer.address = std::string(address);
  session->begun = loop_.refresh_now();
  attend(*sessions_.emplace(*link, std::move(session)).first->second);
  return *link;
}

void Endpoint::close(SessionId session, const Error& why) {
  if (Session* closing = find(session); closing && closing->state >= Session::State::kMeeting)
    send_control(*transport_, session, [&](wire::Control::Builder control) {
      copy_text(control.initGoodbye(static_cast<unsigned>(why.message.size())), why.message);
    });
  end_session(session, why, false);
}

void Endpoint::close_all_with(std::uint64_t node_id, const Error& why) {
  std::vector<SessionId> with_it;
  for (const auto& [id, session] : sessions_)
    if (session->peer.node_id == node_id) with_it.push_back(id);
  for (const SessionId id : with_it) close(id, why);
}

void Endpoint::end_session(SessionId session, Error error, bool tell) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  const std::unique_ptr<Session> ended = std::move(found->second);
  last_found_ = nullptr;
  sessions_.erase(found);
  transport_->close(session);
  if (!ended->peer.node_name.empty()) error.message = ended->peer.node_name + ": " + error.message;
  cancel_inbound(session, kAllCalls);
  end_streams(session, error);
  fail_calls(session, error);
  if (tell) events_.on_session_closed(session, ended->peer, error);
}

// ---- Meeting ------------------------------------------------------------------------------------

void Endpoint::on_link(LinkId link, std::string_view peer_address, bool incoming) {
  if (closing_) return transport_->close(link);
  if (incoming) {
    auto session = std::make_unique<Session>(link);
    session->peer.address = std::string(peer_address);
    session->peer.incoming = true;
    session->begun = loop_.now();
    Session& met = *sessions_.emplace(link, std::move(session)).first->second;
    attend(met);
    return begin_meeting(met);
  }
  if (Session* session = find(link)) begin_meeting(*session);
}

void Endpoint::send_hello(Session& session) {
  const auto address = transport_->data_address(session.link);
  send_control(*transport_, session.link, [&](wire::Control::Builder control) {
    auto hello = control.initHello();
    hello.setProtocolVersion(options_.protocol_version);
    hello.setNodeId(options_.node_id);
    copy_text(hello.initNodeName(static_cast<unsigned>(options_.node_name.size())), options_.node_name);
    if (const auto probe = transport_->can_share_memory() ? shared_pool_.probe() : std::nullopt) {
      hello.setPoolPid(static_cast<std::uint32_t>(::getpid()));
      hello.setPoolFd(probe->fd);
      hello.setPoolCookie(probe->cookie);
    }
    auto data = hello.initDataAddress(static_cast<unsigned>(address.size()));
    if (!address.empty()) std::memcpy(data.begin(), address.data(), address.size());
  });
}

void Endpoint::on_control(LinkId link, std::span<const std::byte> message) {
  Session* session = find(link);
  if (!session) return;
  session->life.heard = loop_.now();
  const auto greeting_of = [](wire::Greeting::Reader greeting) {
    return Greeting{greeting.getScheme(), greeting.getNodeId(), bytes_of(greeting.getNonce())};
  };
  try {
    // Control messages come out of a byte stream, so they lie anywhere; Cap'n Proto wants 8-byte alignment.
    auto words = kj::heapArray<capnp::word>(message.size() / sizeof(capnp::word));
    if (!message.empty()) std::memcpy(words.begin(), message.data(), words.asBytes().size());
    capnp::FlatArrayMessageReader reader(words, reader_options(message.size()));
    auto control = reader.getRoot<wire::Control>();
    if (session->state < Session::State::kMeeting && control.which() < wire::Control::GREETING &&
        control.which() != wire::Control::REFUSAL)
      return refuse(*session,
                    {Code::kUnauthenticated,
                     "this node demands proof of a shared secret before anything else: give all nodes "
                     "the same (node.secret, node.secret_file)"});
    switch (control.which()) {
      case wire::Control::HELLO: {
        auto hello = control.getHello();
        if (session->state == Session::State::kMeeting)
          session->memory.set_owner(static_cast<pid_t>(hello.getPoolPid()),
                                    {hello.getPoolFd(), hello.getPoolCookie(), 0});
        return on_hello(*session,
                        {hello.getNodeId(), std::string(to_view(hello.getNodeName())), session->peer.address,
                         session->peer.incoming},
                        bytes_of(hello.getDataAddress()), hello.getProtocolVersion());
      }
      case wire::Control::REFUSAL:
        return end_session(
            link,
            with_context(read_error(control.getRefusal()), "refused by the peer at " + session->peer.address),
            true);
      case wire::Control::READY:
        return on_ready(*session);
      case wire::Control::HEARTBEAT:
        return on_heartbeat(*session, control.getHeartbeat());
      case wire::Control::ALIVE:
        if (session->state < Session::State::kOpening) break;
        return events_.on_news(link, control.getAlive());
      case wire::Control::GOODBYE:
        return end_session(
            link, {Code::kUnavailable, "the node has left: " + std::string(to_view(control.getGoodbye()))},
            true);
      case wire::Control::GREETING:
        return on_greeting(*session, greeting_of(control.getGreeting()), false);
      case wire::Control::CHALLENGE:
        return on_greeting(*session, greeting_of(control.getChallenge()), true);
      case wire::Control::PROOF:
        return on_proof(*session, bytes_of(control.getProof()));
      case wire::Control::MAPPING:
        if (session->state != Session::State::kOpening) break;
        session->memory.peer_maps = true;
        return;
    }
    end_session(link, {Code::kDataLoss, "a control message came that is unknown, or out of order"}, true);
  } catch (const kj::Exception& exception) {
    end_session(link, {Code::kDataLoss, "a malformed control message came: " + describe(exception)}, true);
  }
}

void Endpoint::on_hello(Session& session, const Peer& peer, std::span<const std::byte> data_address,
                        std::uint32_t version) {
  const auto no = [&](Code code, std::string why) {
    refuse(session, {code, std::move(why), options_.node_name});
  };
  if (session.state != Session::State::kMeeting)
    return no(Code::kFailedPrecondition, "a second hello on one link");
  if (version != options_.protocol_version)
    return no(Code::kFailedPrecondition,
              "protocol version " + std::to_string(version) + " of node '" + peer.node_name +
                  "' is not version " + std::to_string(options_.protocol_version) + " of node '" +
                  options_.node_name + "'; run the same release of Troupe on both");
  if (peer.node_id == 0) return no(Code::kInvalidArgument, "a hello without a node id");
  const auto& terms = session.terms;
  if (!options_.secret.empty() &&
      peer.node_id != (peer.incoming ? terms.dialling_node : terms.listening_node))
    return no(Code::kUnauthenticated, "the hello is of another node than the proof");
  if (auto may = events_.may_meet(peer); !may) return no(may.error().code, may.error().message);
  if (auto opened = transport_->open_data(session.link, data_address); !opened)
    return no(opened.error().code, "no way for data: " + opened.error().message);
  transport_->admit(session.link);
  session.peer = peer;
  if (peer.incoming) send_hello(session);
  open_peer_memory(session);
  session.state = Session::State::kOpening;
  send_control(*transport_, session.link, [](wire::Control::Builder control) { control.setReady(); });
}

void Endpoint::on_ready(Session& session) {
  if (session.state != Session::State::kOpening)
    return end_session(session.link, {Code::kDataLoss, "'ready' came before hello, or twice"}, true);
  session.state = Session::State::kReady;
  const SessionId id = session.link;
  session.peer.way = transport_->describe_way(session.link);
  const Peer peer = session.peer;
  if (!session.queue.empty()) pump_->add(session);
  return_leases(id);  // of tensors that came, and went, before this word did
  send_waiting(id);
  if (find(id)) events_.on_session(id, peer);
}

// ---- Memory that is mapped instead of copied ------------------------------------------------------

void Endpoint::open_peer_memory(Session& session) {
  if (!transport_->can_share_memory() || options_.shared.max_bytes == 0) return;
  const SessionId id = session.link;
  if (session.memory.open_probe(loop_, [this, id] { return_leases(id); }))
    send_control(*transport_, id, [](wire::Control::Builder control) { control.setMapping(); });
}

void Endpoint::lease_tensors(OutMessage& message, SessionId to, bool may_map) {
  if (!message.has_tensors() || to == kLocal) return;
  message.lease();
  if (!may_map || to == kElsewhere) return;
  if (Session* session = find(to); session && session->memory.peer_maps)
    message.share(session->memory.next_lease);
}

void Endpoint::return_leases(SessionId id) {
  Session* session = find(id);
  if (!session || session->state != Session::State::kReady) return;
  const auto leases = session->memory.leases_to_return();
  constexpr std::size_t kBatch = 256;  // fits in an envelope
  for (std::size_t i = 0; i < leases.size(); i += kBatch) {
    const auto batch = std::span(leases).subspan(i, std::min(kBatch, leases.size() - i));
    auto frame = encode({MessageKind::kRelease, 0, 0, 0, 0, Duration{0}, {}}, [&](OutMessage& out) {
      out.values(1);
      out.value(0).numbers(DType::kUInt64, std::as_bytes(batch));
    });
    if (frame) (void)send_frame(id, std::move(*frame), Flow::kUrgent);
  }
}

void Endpoint::on_release(SessionId id, const InMessage& message) {
  std::span<const std::byte> bytes;
  if (message.value_count() != 1 || !message.value(0).read_numbers(DType::kUInt64, bytes) ||
      bytes.size() % sizeof(std::uint64_t) != 0)
    return end_session(id, {Code::kDataLoss, "a peer's message is not valid: no list of leases"}, true);
  Session* session = find(id);
  for (std::size_t at = 0; session && at < bytes.size(); at += sizeof(std::uint64_t)) {
    std::uint64_t lease = 0;
    std::memcpy(&lease, bytes.data() + at, sizeof lease);
    session->memory.take_back(lease);
  }
}

}  // namespace troupe::rpc
