// Before the hello: both sides of a link show that they know the shared secret.
#include <algorithm>

#include "endpoint/endpoint_parts.hpp"
#include "meeting/proof.hpp"
#include "wire/capnp_support.hpp"

namespace troupe::rpc {

namespace {

/// What may be sent on a link before its peer is known: enough for a greeting and for a refusal's reason.
constexpr std::size_t kMaxStrangerBytes = 1024;

void write_greeting(wire::Greeting::Builder out, std::uint64_t node_id, const Nonce& nonce) {
  out.setScheme(kHmacSha256);
  out.setNodeId(node_id);
  copy_data(out.initNonce(kNonceBytes), nonce);
}

/// Tells a stranger no more than it must know.
Error wrong_secret() {
  return {Code::kUnauthenticated,
          "the shared secret is not the same on both sides (node.secret, node.secret_file)"};
}

}  // namespace

void Endpoint::expect_strangers() {
  Transport::StrangerBounds bounds;
  bounds.max_links = options_.max_strangers;
  if (!options_.secret.empty()) bounds.max_control_bytes = kMaxStrangerBytes;
  transport_->bound_strangers(bounds);
}

Result<void> Endpoint::may_meet_at(std::string_view address) const {
  if (options_.secret.empty() && !transport_->is_local(address))
    return Error{
        Code::kFailedPrecondition,
        "'" + std::string(address) +
            "' is reached from other machines, so a shared secret is needed: set node.secret_file, or "
            "TROUPE_NODE_SECRET, to the same on all nodes"};
  if (!options_.secret.empty() && options_.secret.size() < kMinSecretBytes)
    return Error{Code::kInvalidArgument, "the shared secret has " + std::to_string(options_.secret.size()) +
                                             " bytes: at least " + std::to_string(kMinSecretBytes) +
                                             " are needed, best 32 random ones"};
  return {};
}

void Endpoint::refuse(Session& session, Error why) {
  send_control(*transport_, session.link,
               [&](wire::Control::Builder control) { write_error(control.initRefusal(), why); });
  end_session(session.link, std::move(why), true);
}

void Endpoint::begin_meeting(Session& session) {
  session.life.heard = loop_.now();
  session.state = options_.secret.empty() ? Session::State::kMeeting : Session::State::kGreeting;
  if (session.peer.incoming) return;
  if (options_.secret.empty()) return send_hello(session);
  auto nonce = make_nonce();
  if (!nonce) return end_session(session.link, nonce.error(), true);
  session.terms.dialling_node = options_.node_id;
  session.terms.dialling_nonce = *nonce;
  send_control(*transport_, session.link, [&](wire::Control::Builder control) {
    write_greeting(control.initGreeting(), options_.node_id, *nonce);
  });
}

/// Strangers' first words. Whatever does not follow the order of a meeting ends the link.
void Endpoint::on_greeting(Session& session, const Greeting& greeting, bool challenge) {
  if (options_.secret.empty())
    return refuse(session,
                  {Code::kUnauthenticated,
                   "this node has no shared secret, and is asked to prove one: give all nodes the same "
                   "(node.secret, node.secret_file)"});
  if (session.state != Session::State::kGreeting || session.peer.incoming == challenge)
    return refuse(session, {Code::kUnauthenticated, "a greeting that nobody waits for"});
  if (greeting.scheme != kHmacSha256)
    return refuse(session, {Code::kUnauthenticated, "an unknown way to prove the shared secret: number " +
                                                        std::to_string(greeting.scheme)});
  if (greeting.nonce.size() != kNonceBytes || greeting.node_id == 0)
    return refuse(session, {Code::kInvalidArgument, "a malformed greeting"});
  MeetingTerms& terms = session.terms;
  (challenge ? terms.listening_node : terms.dialling_node) = greeting.node_id;
  std::ranges::copy(greeting.nonce, (challenge ? terms.listening_nonce : terms.dialling_nonce).begin());
  session.state = Session::State::kProving;
  if (challenge) return send_proof(session);
  auto nonce = make_nonce();
  if (!nonce) return end_session(session.link, nonce.error(), true);
  terms.listening_node = options_.node_id;
  terms.listening_nonce = *nonce;
  send_control(*transport_, session.link, [&](wire::Control::Builder control) {
    write_greeting(control.initChallenge(), options_.node_id, *nonce);
  });
}

void Endpoint::send_proof(Session& session) {
  const auto role = session.peer.incoming ? MeetingRole::kListening : MeetingRole::kDialling;
  const auto proof = prove(options_.secret, role, session.terms);
  if (!proof) return refuse(session, proof.error());
  send_control(*transport_, session.link,
               [&](wire::Control::Builder control) { copy_data(control.initProof(sizeof(Proof)), *proof); });
}

void Endpoint::on_proof(Session& session, std::span<const std::byte> claimed) {
  if (session.state != Session::State::kProving)
    return refuse(session, {Code::kUnauthenticated, "a proof that nobody waits for"});
  const auto role = session.peer.incoming ? MeetingRole::kDialling : MeetingRole::kListening;
  const auto expected = prove(options_.secret, role, session.terms);
  if (!expected) return refuse(session, expected.error());
  if (!same_proof(claimed, *expected)) return refuse(session, wrong_secret());
  transport_->admit(session.link);
  session.state = Session::State::kMeeting;
  // The dialling side has proved first: who cannot prove anything is shown no proof either.
  if (session.peer.incoming) return send_proof(session);
  send_hello(session);
}

}  // namespace troupe::rpc
