// What a peer may have of this side's memory: answers on their way to it, and requests of its own.
//
// Answers that do not leave, because their peer does not read, are made no more: its further requests are
// held, in order, until they have left. Replies to our own calls are read and handled meanwhile, so that two
// peers that answer each other with much go on. When what is held, or runs, is more than a peer has that
// keeps to its own bounds, nothing is read from it any more. Tensors that go to devices count as bytes that
// come beside their message do, from when it has come.
#include <algorithm>
#include <new>

#include "calls/frugal_error.hpp"
#include "endpoint/core_sources.hpp"

namespace troupe::rpc {

namespace {
/// Held requests that are begun in one go, so that others' messages are not kept waiting.
constexpr int kMostAtOnce = 64;
}  // namespace

bool Session::answers_wait() {
  const std::size_t most = endpoint_.options_.limits.max_answer_bytes;
  // What it has not copied yet, or has not said so, is kept for it in a device, or in pinned memory.
  if (memory_.answer_bytes() > endpoint_.options_.limits.max_bytes_in_flight) return true;
  if (leaving_.bytes() + queue_.reply_bytes() <= most) return false;
  leaving_.update(endpoint_.transport_->bytes_in_flight(link_));
  return leaving_.bytes() + queue_.reply_bytes() > most;
}

bool Session::owes_too_much() const {
  return calls.in.bytes() + arriving_bytes_ > endpoint_.options_.limits.max_inbound_bytes;
}

void Session::take_in(InboundCallPtr call) {
  if (owes_too_much()) pause();
  if (calls.held.empty() && !answers_wait()) return endpoint_.begin_request(std::move(call));
  try {
    endpoint_.pump_->add(*this);
    calls.held.push(std::move(call));
  } catch (const std::bad_alloc&) {
    return call->reply_error(frugal_error(Code::kResourceExhausted, "there was no memory to hold a call"));
  }
  ++endpoint_.stats_.requests_held;
  if (owes_too_much()) pause();
}

void Session::begin_arrival(std::size_t bytes) {
  arriving_bytes_ += bytes;
  if (owes_too_much()) pause();
}

void Session::pause() {
  if (paused_) return;
  endpoint_.pump_->add(*this);
  paused_ = true;
  ++endpoint_.stats_.pauses;
  endpoint_.transport_->pause(link_, true);
}

/// Not at the bound at once: else each message would be a pause.
void Session::resume_if_due() {
  const std::size_t owed = calls.in.bytes() + arriving_bytes_;
  if (!paused_ || owed > endpoint_.options_.limits.max_inbound_bytes / 4 * 3) return;
  paused_ = false;
  endpoint_.transport_->pause(link_, false);
}

/// Begins what is held, as far as there is room. Whether it did anything.
bool EndpointCore::begin_held(SessionId id) {
  Session* session = find(id);
  if (!session) return false;
  for (const InboundCallPtr& late : session->calls.held.take_expired(loop_.now())) forget(*late);
  session = find(id);
  int begun = 0;
  // Found anew each time: a handler may do anything.
  while (session && begun < kMostAtOnce && !session->calls.held.empty() && !session->answers_wait()) {
    ++begun;
    InboundCallPtr call = session->calls.held.pop();
    if (call->expired())
      forget(*call);
    else
      begin_request(std::move(call));
    session = find(id);
  }
  if (session) session->resume_if_due();
  return begun > 0 || (session && session->calls.held.is_looking());
}

}  // namespace troupe::rpc
