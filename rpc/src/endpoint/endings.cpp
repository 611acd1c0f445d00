// What ends together, but in slices: see EndpointCore::Endings.
#include <algorithm>
#include <new>
#include <utility>

#include <troupe/rpc/stream_ends.hpp>

#include "calls/answers.hpp"
#include "calls/frugal_error.hpp"
#include "endpoint/core_sources.hpp"

namespace troupe::rpc {

namespace {
/// Calls that end in one round of the loop: less than a millisecond's work.
constexpr std::size_t kMostInRound = 512;
/// ... and so many of each session, however many sessions end: most have no more.
constexpr std::size_t kAtOnce = 16;
}  // namespace

// ---- What is to end ---------------------------------------------------------------------------------

/// It is listed before anybody is told, so that who is told and waits has the loop go on with it.
void EndpointCore::Endings::begin(std::unique_ptr<Session> session, Error error, bool is_told) {
  EndedSessions place = std::move(session->place);
  const std::shared_ptr<EndedSession> now = place.front();
  now->session = std::move(session);
  now->error = std::move(error);
  now->is_told = is_told;
  now->at = place.begin();
  ended_.splice(ended_.end(), place);
  if (!scheduled()) endpoint_.loop_.schedule(*this, endpoint_.loop_.now());
  if (!end_some(*now, std::max(room(), kAtOnce))) finished(*now);
  if (idle()) endpoint_.loop_.cancel(*this);
}

void EndpointCore::Endings::cancel(std::span<const std::uint64_t> call_ids) {
  for (const std::uint64_t id : call_ids) {
    if (room() == 0) {
      try {
        cancelled_.push_back(id);
        if (!scheduled()) endpoint_.loop_.schedule(*this, endpoint_.loop_.now());
        continue;
      } catch (const std::bad_alloc&) {  // at once
      }
    }
    take_room(1);
    endpoint_.cancel(id);
  }
}

void EndpointCore::cancel_all(std::span<const std::uint64_t> call_ids) {
  endings_->cancel(call_ids);
}

void EndpointCore::Endings::give_up_answers() {
  answers_are_due_ = endpoint_.answers_->is_due(endpoint_.loop_.now());
  if (answers_are_due_ && !scheduled()) endpoint_.loop_.schedule(*this, endpoint_.loop_.now());
}

// ---- Some of it, and some more ----------------------------------------------------------------------

std::size_t EndpointCore::Endings::room() {
  if (const std::uint64_t round = endpoint_.loop_.stats().rounds; std::exchange(round_, round) != round)
    room_ = kMostInRound;
  return room_;
}

void EndpointCore::Endings::take_room(std::size_t count) {
  room_ -= std::min(room_, count);
}

/// What a sink calls anew goes elsewhere: the peer is not in the registry any more.
std::size_t EndpointCore::Endings::fail_calls(PeerCalls& calls, const Error& error, std::size_t most) {
  std::size_t did = 0;
  for (OpenCall* call = nullptr; did < most && (call = calls.out.first()); ++did)
    call->endpoint.complete(*call, frugal_error(error));
  return did;
}

std::size_t EndpointCore::Endings::end_streams(PeerCalls& calls, const Error& error, std::size_t most) {
  std::size_t did = 0;
  for (; did < most && !calls.streams.empty(); ++did) {
    const auto stream = std::move(calls.streams.begin()->second);
    calls.streams.erase(calls.streams.begin());
    stream->end_by_reader(error);
  }
  return did;
}

/// Each step whatever the others throw. Whether anything is left.
bool EndpointCore::Endings::end_some(EndedSession& ended, std::size_t most) {
  PeerCalls& calls = ended.session->calls;
  std::size_t left = most;
  const auto step = [&](auto&& some) {
    if (left > 0) endpoint_.shield(kWhere, [&] { left -= some(); });
  };
  step([&] { return endpoint_.cancel_some_inbound(calls, ended.chain, left); });
  step([&] { return end_streams(calls, ended.error, left); });
  step([&] { return fail_calls(calls, ended.error, left); });
  take_room(std::max<std::size_t>(most - left, 1));
  return !calls.held.empty() || calls.in.any(ended.chain) || !calls.streams.empty() || calls.out.first();
}

/// Nothing of it is left. Once: others may have come to that first.
void EndpointCore::Endings::finished(EndedSession& ended) {
  if (std::exchange(ended.done, true)) return;
  ended_.erase(ended.at);  // whoever works on it holds it
  if (!ended.is_told) return;
  const Session& session = *ended.session;
  endpoint_.shield(kWhere,
                   [&] { endpoint_.events_.on_session_closed(session.id(), session.peer(), ended.error); });
}

/// A handler that is told may wait, and so have the loop come here again: the first of the list is looked at
/// anew each time.
void EndpointCore::Endings::go_on(bool to_the_end) {
  while (!ended_.empty() && (to_the_end || room() > 0)) {
    const std::shared_ptr<EndedSession> first = ended_.front();
    if (!end_some(*first, to_the_end ? SIZE_MAX : room())) finished(*first);
  }
  while (!cancelled_.empty() && (to_the_end || room() > 0)) {
    const std::uint64_t id = cancelled_.front();
    cancelled_.pop_front();
    take_room(1);
    endpoint_.shield("giving a call up", [&] { endpoint_.cancel(id); });
  }
}

void EndpointCore::Endings::on_timer() {
  endpoint_.loop_.schedule(*this, endpoint_.loop_.now());
  go_on(false);
  if (answers_are_due_ && room() > 0) {
    take_room(endpoint_.answers_->expire(endpoint_.loop_.now(), room()));
    give_up_answers();
  }
  if (idle()) endpoint_.loop_.cancel(*this);
}

void EndpointCore::Endings::finish() {
  go_on(true);
  answers_are_due_ = false;
  endpoint_.loop_.cancel(*this);
}

}  // namespace troupe::rpc
