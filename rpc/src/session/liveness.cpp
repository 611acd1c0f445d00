// Whether peers live: who is asked, and whose silence is death. See Liveness for the rules.
#include "session/liveness.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

#include <troupe/runtime/host_port.hpp>

#include "calls/answers.hpp"
#include "endpoint/core_sources.hpp"
#include "wire/capnp_support.hpp"

namespace troupe::rpc {

namespace {
constexpr int kSlowest = 4;

std::string milliseconds(Duration time) {
  return std::to_string(time.count() / 1'000'000) + " ms";
}
}  // namespace

// ---- What the endpoint does ---------------------------------------------------------------------

void EndpointCore::keep_watch(SessionId session, bool on) {
  Session* peer = find(session);
  if (!peer) return;
  peer->life.watched = on;
  if (on) attend(*peer);
}

/// The peer waits for something and has heard nothing of us.
void Session::on_heartbeat(std::uint64_t news) {
  if (!met()) return;
  send_control(*endpoint_.transport_, link_,
               [&](wire::Control::Builder control) { control.setAlive(endpoint_.events_.news()); });
  endpoint_.events_.on_news(link_, news);
}

// ---- Who is attended ----------------------------------------------------------------------------

void Liveness::attend(Session& session) {
  assert(!session.life.attended);
  session.life.attended_from = endpoint_.loop_.fresh_now();
  list(session);
  session.life.attended = true;
}

void Liveness::list(Session& session) {
  if (!session.life.listed) listed_.push_back(session.id());
  session.life.listed = true;
  wake();
}

void Liveness::wake() {
  if (!scheduled()) endpoint_.loop_.schedule(*this, endpoint_.loop_.fresh_now() + tick());
}

/// Somebody else has heard nothing for `silence`: so long nothing was to be heard here either. But the peer
/// gets a quarter of the limit to answer in, whatever others say.
void Liveness::suspect(Session& session, Duration silence) {
  const Duration limit = endpoint_.options_.silence_limit;
  endpoint_.attend(session);
  SignsOfLife& life = session.life;
  const TimePoint now = endpoint_.loop_.fresh_now();
  life.attended_from = std::min(life.attended_from, now + -std::min<Duration>(silence, limit - limit / 4));
  if (!life.suspected()) life.suspected_at = now;
  if (!session.ready()) return;
  ask(session);
  const TimePoint judged = life.silent_since() + patience(limit);
  if (judged < due()) endpoint_.loop_.schedule(*this, judged);
}

bool Liveness::needs_attention(const Session& session) {
  return !session.ready() || session.life.watched || session.life.suspected() || session.is_waited_for();
}

// ---- The tick -----------------------------------------------------------------------------------

/// Often enough to keep the limits, whatever the interval is.
Duration Liveness::tick() const {
  const EndpointOptions& options = endpoint_.options_;
  const Duration longest =
      std::min({options.heartbeat_interval, options.silence_limit / 2, options.handshake_timeout / 2});
  return std::max<Duration>(longest, std::chrono::milliseconds(1));
}

/// Whether silence means anything now. A loop that was itself held up heard nothing because it did not
/// listen; then what lies in the sockets is read first, and silence judged at the next tick.
bool Liveness::listens(TimePoint now) {
  const Duration late = now - due();
  if (late > tick() / 4)
    slowness_ = std::min(slowness_ + 1, kSlowest);
  else
    slowness_ = std::max(slowness_ - 1, 0);
  const bool held_up = late > tick();
  return !std::exchange(was_held_up_, held_up) && !held_up;
}

/// Why the session is to end, if it is.
std::optional<Error> Liveness::judge(const Session& session, TimePoint now) const {
  const EndpointOptions& options = endpoint_.options_;
  if (!session.ready()) {
    if (now - session.begun <= patience(options.handshake_timeout)) return std::nullopt;
    // The dialling says the same, in its own words, if its time is over first.
    const Result<HostPort> at = parse_host_port(session.peer().address);
    const std::string hint =
        session.state() == Session::State::kDialling && at
            ? ": is the machine up, and does a firewall let port " + std::to_string(at->port) + " through?"
            : std::string();
    return Error{Code::kUnavailable, "no meeting with " + session.peer().address + " within " +
                                         milliseconds(options.handshake_timeout) + hint};
  }
  const Duration silence = now - session.life.silent_since();
  if (silence < patience(options.silence_limit)) return std::nullopt;
  return Error{Code::kUnavailable, "nothing was heard of the node for " + milliseconds(silence)};
}

void Liveness::ask(Session& session) {
  send_control(*endpoint_.transport_, session.id(),
               [&](wire::Control::Builder control) { control.setHeartbeat(endpoint_.events_.news()); });
}

/// What a tick has found; told when all have been looked at, because whoever is told may do anything.
struct Liveness::Verdicts {
  TimePoint next;  // when to look again
  std::vector<std::pair<SessionId, Error>> dead;
  std::vector<std::pair<SessionId, Duration>> quiet;
};

void Liveness::look_at(Session& session, TimePoint now, bool listening, Verdicts& verdicts) {
  const EndpointOptions& options = endpoint_.options_;
  const bool ready = session.ready();
  if (auto death = judge(session, now); death && listening) {
    verdicts.dead.emplace_back(session.id(), std::move(*death));
    return;
  }
  const TimePoint since = ready ? session.life.silent_since() : session.begun;
  const Duration silence = now - since;
  if (ready && silence >= options.heartbeat_interval / 2) ask(session);
  if (listening && session.life.watched && silence >= options.silence_limit / 2)
    verdicts.quiet.emplace_back(session.id(), silence);
  if (!ready) return;
  if (const TimePoint judged = since + patience(options.silence_limit); judged > now)
    verdicts.next = std::min(verdicts.next, judged);
}

void Liveness::on_timer() {
  const TimePoint now = endpoint_.loop_.refresh_now();
  const bool listening = listens(now);
  Verdicts verdicts{now + tick(), {}, {}};
  endpoint_.loop_.schedule(*this, verdicts.next);  // also if this one is cut short by what is thrown
  std::size_t kept = 0;
  for (std::size_t i = 0; i < listed_.size(); ++i) {
    const SessionId id = listed_[i];
    Session* const session = endpoint_.find(id);
    if (!session) continue;
    SignsOfLife& life = session->life;
    if (life.suspected() && life.heard > life.suspected_at) life.suspected_at = TimePoint::never();
    session->memory().drop_closed();
    life.attended = needs_attention(*session);
    life.listed = life.attended || session->memory().maps();
    if (life.listed) listed_[kept++] = id;
    if (life.attended) look_at(*session, now, listening, verdicts);
  }
  listed_.resize(kept);
  endpoint_.endings_->give_up_answers();
  if (!listed_.empty() || endpoint_.answers_->kept_answers() > 0)
    endpoint_.loop_.schedule(*this, verdicts.next);
  else
    endpoint_.loop_.cancel(*this);
  for (const auto& [id, silence] : verdicts.quiet)
    if (const Session* session = endpoint_.find(id))
      endpoint_.events_.on_quiet(id, Peer(session->peer()), silence);
  for (auto& [id, error] : verdicts.dead) endpoint_.end_session(id, std::move(error), true);
}

}  // namespace troupe::rpc
