// One-way messages that wait for others of them to be done: see OneWayBytes.
#include "endpoint/core_sources.hpp"

namespace troupe::rpc {

// ---- Ours, at the peer ----------------------------------------------------------------------------

Result<void> Session::send_one_way(OutFrame&& frame, std::size_t bytes) {
  EndpointCore& endpoint = endpoint_;
  const SessionId id = link_;
  one_way_.note_sent(bytes + kRequestBytes);
  auto sent = endpoint.transport_->send(id, std::move(frame));
  // Found anew: a buffer that is dropped may run anybody's code.
  if (Session* session = endpoint.find(id))
    if (const auto at = session->one_way_.due(endpoint.options_.limits.max_bytes_in_flight)) [[unlikely]]
      session->ask_done(*at);
  return sent;
}

/// Whether the peer was asked now. May end this session.
bool Session::ask_for_room(std::size_t bytes) {
  const auto at = one_way_.due_for(bytes + kRequestBytes, endpoint_.options_.limits.max_bytes_in_flight);
  return at && ask_done(*at);
}

/// May end this session.
bool Session::ask_done(std::uint64_t at) {
  auto frame = endpoint_.encode({MessageKind::kAskDone, 0, at, 0, 0, Duration{0}, {}},
                                [](OutMessage& out) { out.values(0); });
  if (!frame) return false;  // the next message asks
  one_way_.note_asked(at);
  (void)endpoint_.send_frame(link_, std::move(*frame), Flow::kUrgent);
  return true;
}

void EndpointCore::on_done(SessionId id, std::uint64_t bytes) {
  Session* session = find(id);
  if (session && !session->on_done(bytes))
    end_session(
        id, {Code::kDataLoss, "a peer's message is not valid: more one-way messages are done than were sent"},
        true);
}

// ---- The peer's, here -----------------------------------------------------------------------------

void EndpointCore::on_ask_done(SessionId id, std::uint64_t at) {
  if (Session* session = find(id)) session->on_ask_done(at);
}

void Session::on_ask_done(std::uint64_t at) {
  one_way_.ask(at);
  if (one_way_.must_tell()) endpoint_.pump_->hurry(*this);
}

/// A one-way message of a peer's is done, or will never be begun.
void EndpointCore::note_done(SessionId id, std::size_t bytes) {
  if (Session* session = find(id)) session->note_done(bytes);
}

void Session::note_done(std::size_t bytes) {
  one_way_.note_done(bytes + kRequestBytes);
  if (one_way_.must_tell() || paused_) [[unlikely]]
    endpoint_.shield("what tells of one-way messages", [&] { endpoint_.pump_->hurry(*this); });
}

bool EndpointCore::tell_done(SessionId id) {
  Session* session = find(id);
  return session && session->tell_done();
}

/// From the pump, so that many that end together are told of once. It counts as an answer: a peer that reads
/// none has no more begun of it. May end this session.
bool Session::tell_done() {
  if (!one_way_.must_tell() || !ready()) return false;
  auto frame = endpoint_.encode({MessageKind::kDone, 0, one_way_.done(), 0, 0, Duration{0}, {}},
                                [](OutMessage& out) { out.values(0); });
  if (!frame) return false;
  one_way_.note_answered();
  (void)endpoint_.send_frame(link_, std::move(*frame), Flow::kReply);
  return true;
}

}  // namespace troupe::rpc
