// Before the hello: both sides of a link show that they know the shared secret.
#include <algorithm>

#include "control/proof.hpp"
#include "endpoint/core.hpp"
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
          "the shared secret is not the same on both sides: give all nodes one (node.secret_file, or "
          "TROUPE_NODE_SECRET); without, each user of a machine has one of their own"};
}

Error no_room() {
  return {Code::kResourceExhausted,
          "its process has as many open files as it may have, but for those that its members need: raise the "
          "limit there (ulimit -n)"};
}

}  // namespace

void EndpointCore::expect_strangers() {
  Transport::StrangerBounds bounds;
  bounds.max_links = options_.max_strangers;
  bounds.patience = options_.handshake_timeout;
  bounds.this_machine_only = options_.secret.empty() || options_.secret_is_of_this_machine;
  if (!options_.secret.empty()) bounds.max_control_bytes = kMaxStrangerBytes;
  transport_->bound_strangers(bounds);
}

Result<void> EndpointCore::may_meet_at(std::string_view address) const {
  const bool stays_here = options_.secret.empty() || options_.secret_is_of_this_machine;
  if (stays_here && !transport_->is_local(address))
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

void Session::refuse(Error why) {
  const Error told{why.code, std::string(clipped(why.message, kMostReason)),
                   std::string(clipped(why.node, 100)), std::string(clipped(why.cause, 100)), why.trace_id};
  send_control(*endpoint_.transport_, link_,
               [&](wire::Control::Builder control) { write_error(control.initRefusal(), told); });
  end(std::move(why));
}

void Session::begin_meeting() {
  life.heard = endpoint_.loop_.now();
  state_ = endpoint_.options_.secret.empty() ? State::kMeeting : State::kGreeting;
  if (peer_.incoming && !endpoint_.transport_->has_room_for(link_)) return refuse(no_room());
  if (peer_.incoming) return;
  if (endpoint_.options_.secret.empty()) return send_hello();
  auto nonce = make_nonce();
  if (!nonce) return end(nonce.error());
  terms_.dialling_node = endpoint_.options_.node_id;
  terms_.dialling_nonce = *nonce;
  send_control(*endpoint_.transport_, link_, [&](wire::Control::Builder control) {
    write_greeting(control.initGreeting(), endpoint_.options_.node_id, *nonce);
  });
}

/// Strangers' first words. Whatever does not follow the order of a meeting ends the link.
void Session::on_greeting(const Greeting& greeting, bool challenge) {
  if (endpoint_.options_.secret.empty())
    return refuse({Code::kUnauthenticated,
                   "this node has no shared secret, and is asked to prove one: give all nodes the same "
                   "(node.secret, node.secret_file)"});
  if (state_ != State::kGreeting || peer_.incoming == challenge)
    return refuse({Code::kUnauthenticated, "a greeting that nobody waits for"});
  if (greeting.scheme != kHmacSha256)
    return refuse({Code::kUnauthenticated,
                   "an unknown way to prove the shared secret: number " + std::to_string(greeting.scheme)});
  if (greeting.nonce.size() != kNonceBytes || greeting.node_id == 0)
    return refuse({Code::kInvalidArgument, "a malformed greeting"});
  MeetingTerms& terms = terms_;
  (challenge ? terms.listening_node : terms.dialling_node) = greeting.node_id;
  std::ranges::copy(greeting.nonce, (challenge ? terms.listening_nonce : terms.dialling_nonce).begin());
  state_ = State::kProving;
  if (challenge) return send_proof();
  auto nonce = make_nonce();
  if (!nonce) return end(nonce.error());
  terms.listening_node = endpoint_.options_.node_id;
  terms.listening_nonce = *nonce;
  send_control(*endpoint_.transport_, link_, [&](wire::Control::Builder control) {
    write_greeting(control.initChallenge(), endpoint_.options_.node_id, *nonce);
  });
}

void Session::send_proof() {
  const auto role = peer_.incoming ? MeetingRole::kListening : MeetingRole::kDialling;
  const auto proof = prove(endpoint_.options_.secret, role, terms_);
  if (!proof) return refuse(proof.error());
  send_control(*endpoint_.transport_, link_,
               [&](wire::Control::Builder control) { copy_data(control.initProof(sizeof(Proof)), *proof); });
}

void Session::on_proof(std::span<const std::byte> claimed) {
  if (state_ != State::kProving) return refuse({Code::kUnauthenticated, "a proof that nobody waits for"});
  const auto role = peer_.incoming ? MeetingRole::kDialling : MeetingRole::kListening;
  const auto expected = prove(endpoint_.options_.secret, role, terms_);
  if (!expected) return refuse(expected.error());
  if (!same_proof(claimed, *expected)) return refuse(wrong_secret());
  endpoint_.transport_->admit(link_);
  state_ = State::kMeeting;
  // The dialling side has proved first: who cannot prove anything is shown no proof either.
  if (peer_.incoming) return send_proof();
  send_hello();
}

}  // namespace troupe::rpc
