// Calls with a token run once: what is kept of them, and what the endpoint does with a repeat.
#include "calls/answers.hpp"

#include <algorithm>
#include <cassert>

#include "endpoint/core_sources.hpp"
#include "wire/envelope_patch.hpp"

namespace troupe::rpc {

namespace {

/// Repeats of one call that may wait for its answer; a caller has no use for more than its latest.
constexpr std::size_t kMaxRepeats = 8;

OutFrame copy_of(const OutFrame& frame) {
  OutFrame copy{Buffer::copy_of(frame.head.bytes()), {}};
  copy.parts.reserve(frame.parts.size());
  for (const Buffer& part : frame.parts) copy.parts.push_back(Buffer::copy_of(part.bytes()));
  return copy;
}

}  // namespace

// ---- What is kept -------------------------------------------------------------------------------

Answers::Record* Answers::find(std::uint64_t caller, const Id& id) {
  const auto known = callers_.find(caller);
  if (known == callers_.end()) return nullptr;
  const auto record = known->second.records.find(id);
  return record == known->second.records.end() ? nullptr : &record->second;
}

Answers::Record* Answers::begin(std::uint64_t caller, const Id& id) {
  if (!callers_.contains(caller) && callers_.size() >= limits_.callers && !make_room()) return nullptr;
  Caller& owner = callers_[caller];
  owner.node_id = caller;
  return &owner.records[id];
}

/// Forgets the caller that has been silent for longest and of whom nothing runs. Its answers are given up
/// later, for they may be many.
bool Answers::make_room() {
  auto oldest = callers_.end();
  for (auto caller = callers_.begin(); caller != callers_.end(); ++caller) {
    const bool idle = caller->second.records.size() == caller->second.kept.size();
    if (idle && (oldest == callers_.end() || caller->second.last < oldest->second.last)) oldest = caller;
  }
  if (oldest == callers_.end()) return false;
  forgotten_.reserve(forgotten_.size() + 1);
  forgotten_.push_back(callers_.extract(oldest));
  return true;
}

void Answers::keep(std::uint64_t caller, const Id& id, OutFrame answer, TimePoint now) {
  Record* record = find(caller, id);
  if (!record) return;
  Caller& owner = callers_.at(caller);
  if (owner.gone) return forget(caller, id);
  owner.kept.push_back(record);
  record->first = nullptr;
  record->bytes = bytes_of(answer);
  record->answer = std::move(answer);
  record->id = id;
  record->owner = &owner;
  record->until = now + limits_.time;
  link(*record);
  owner.bytes += record->bytes;
  bytes_ += record->bytes;
  owner.last = now;
  while (owner.kept.size() > 1 && (owner.kept.size() > limits_.answers || owner.bytes > limits_.bytes))
    give_up_oldest(owner);
  if (bytes_ > limits_.total_bytes) keep_within_total(owner);
  erase_if_empty(owner);
}

/// Who has more than its share gives up its oldest, first the one that has just been given something: so
/// nobody's many answers cost others theirs.
void Answers::keep_within_total(Caller& latest) {
  for (; bytes_ > limits_.total_bytes && !forgotten_.empty(); forgotten_.pop_back())
    for (Caller& caller = forgotten_.back().mapped(); !caller.kept.empty();) give_up_oldest(caller);
  const std::size_t share = limits_.total_bytes / callers_.size();
  while (bytes_ > limits_.total_bytes) {
    Caller& victim = latest.bytes > share ? latest : *heaviest();
    while (bytes_ > limits_.total_bytes && victim.bytes > share) give_up_oldest(victim);
    if (&victim != &latest) erase_if_empty(victim);
  }
}

/// One who has more than its share, if anybody has: looked for among all only when the last one found has
/// not any more.
Answers::Caller* Answers::heaviest() {
  const auto last = callers_.find(heaviest_);
  if (last != callers_.end() && last->second.bytes > limits_.total_bytes / callers_.size())
    return &last->second;
  const auto most = std::max_element(callers_.begin(), callers_.end(), [](const auto& a, const auto& b) {
    return a.second.bytes < b.second.bytes;
  });
  heaviest_ = most->first;
  return &most->second;
}

void Answers::give_up_oldest(Caller& caller) {
  Record& record = *caller.kept.front();
  assert(record.answer && record.owner == &caller);
  caller.kept.pop_front();
  caller.bytes -= record.bytes;
  bytes_ -= record.bytes;
  unlink(record);
  caller.records.erase(Id(record.id));
}

void Answers::link(Record& record) {
  record.earlier = latest_;
  (latest_ ? latest_->later : oldest_) = &record;
  latest_ = &record;
  ++kept_;
}

void Answers::unlink(Record& record) {
  (record.earlier ? record.earlier->later : oldest_) = record.later;
  (record.later ? record.later->earlier : latest_) = record.earlier;
  --kept_;
}

void Answers::erase_if_empty(Caller& caller) {
  if (caller.records.empty()) callers_.erase(std::uint64_t(caller.node_id));
}

void Answers::forget(std::uint64_t caller, const Id& id) {
  const auto known = callers_.find(caller);
  if (known == callers_.end()) return;
  known->second.records.erase(id);
  erase_if_empty(known->second);
}

void Answers::caller_gone(std::uint64_t caller) {
  const auto known = callers_.find(caller);
  if (known == callers_.end() || known->second.gone) return;
  known->second.gone = true;
  gone_.push_back(caller);
}

std::size_t Answers::expire(TimePoint now, std::size_t most) {
  std::size_t did = 0;
  const std::size_t enough = bytes_ - std::min(bytes_, most == SIZE_MAX ? bytes_ : kMostBytes);
  const auto may = [&] { return did < most && (did == 0 || bytes_ > enough || bytes_ == 0); };
  while (may() && !forgotten_.empty()) {
    Caller& caller = forgotten_.back().mapped();
    if (!caller.kept.empty()) give_up_oldest(caller), ++did;
    if (caller.kept.empty()) forgotten_.pop_back();
  }
  while (may() && !gone_.empty()) {
    const auto known = callers_.find(gone_.front());
    if (known == callers_.end() || known->second.kept.empty()) {
      gone_.pop_front();
      continue;
    }
    give_up_oldest(known->second), ++did;
    erase_if_empty(known->second);
  }
  while (may() && oldest_ && oldest_->until <= now) {
    Caller& owner = *oldest_->owner;
    give_up_oldest(owner), ++did;
    erase_if_empty(owner);
  }
  return did;
}

// ---- What the endpoint does ---------------------------------------------------------------------

void EndpointCore::forget_caller(std::uint64_t node_id) {
  answers_->caller_gone(node_id);
  endings_->give_up_answers();
}

std::uint64_t EndpointCore::caller_of(const InboundCall& call) {
  const Session* session = call.session_ == kLocal ? nullptr : find(call.session_);
  return session ? session->peer().node_id : options_.node_id;
}

/// The caller gives a call up by the id of its latest attempt.
InboundCall* EndpointCore::first_of(const InboundCall& repeat) {
  const Answers::Record* record = answers_->find(caller_of(repeat), Answers::id_of(repeat));
  return record ? record->first : nullptr;
}

/// Takes a call of `caller` that has run, or runs, already. False: it is the first with its token, and now
/// known.
bool EndpointCore::take_repeat(InboundCallPtr& call, std::uint64_t caller) {
  const Answers::Id id = Answers::id_of(*call);
  Answers::Record* record = answers_->find(caller, id);
  if (!record || (!record->first && !record->answer)) {
    record = answers_->begin(caller, id);
    if (!record) {
      call->reply_error({Code::kResourceExhausted, "too many nodes have calls with tokens running here"});
      return true;
    }
    record->method = call->header().method;
    record->first = call.get();
    call->token_owner_ = caller;
    return false;
  }
  if (record->method != call->header().method) {
    call->reply_error({Code::kInvalidArgument, "this token was used for another method"});
    return true;
  }
  ++stats_.repeats_answered;
  if (record->answer) {
    forget(*call);
    send_kept(*call, *record->answer);
  } else {
    if (record->repeats.size() == kMaxRepeats) {
      const InboundCallPtr oldest = std::move(record->repeats.front());
      record->repeats.erase(record->repeats.begin());
      forget(*oldest);  // its caller has sent eight more since
    }
    record->repeats.push_back(std::move(call));
  }
  return true;
}

/// Keeps the answer of a call that has run, or, if it is too long for that, that it has. False: neither was
/// to be had.
bool EndpointCore::keep_answer(std::uint64_t caller, const InboundCall& call, const OutFrame& frame) {
  const Answers::Id id = Answers::id_of(call);
  try {
    if (bytes_of(frame) <= answers_->limits().bytes / 2) {
      // What is sent may lie in memory that the actor goes on to change.
      answers_->keep(caller, id, copy_of(frame), loop_.now());
    } else {
      const auto too_long = encode(
          {MessageKind::kReply, call.header().call_id, 0, 0, 0, Duration{0}, {}}, [&](OutMessage& out) {
            out.error({Code::kDataLoss,
                       "this call has run, but its answer was too long to be kept for a repeat",
                       options_.node_name});
          });
      if (!too_long) return false;
      answers_->keep(caller, id, copy_of(*too_long), loop_.now());
    }
    liveness_->wake();
    return true;
  } catch (...) {
    on_thrown("keeping an answer");
    return false;
  }
}

/// Answers a first call and the repeats that wait with it. `call` is forgotten already.
void EndpointCore::answer_token(InboundCall& call, const BodyWriter& body, bool keep) {
  const std::uint64_t caller = std::exchange(call.token_owner_, 0);
  const Answers::Id id = Answers::id_of(call);
  Answers::Record* record = answers_->find(caller, id);
  std::vector<InboundCallPtr> repeats;
  if (record) {
    record->first = nullptr;
    repeats.swap(record->repeats);
  }
  if (call.span_) end_span(call, std::move(call.span_));
  const MessageHeader header{MessageKind::kReply, call.header().call_id, 0, 0, 0, Duration{0}, {}};
  auto frame = encode(header, body, call.session_);
  const auto replace = [&](const Error& error) {
    frame = encode(header, [&](OutMessage& out) { out.error(error); });
  };
  if (!frame) replace(with_context(frame.error(), "the answer could not be sent"));
  // It would be copied before the device has written it; and what a device holds the host cannot copy.
  const auto in_device = [](const Buffer& part) { return part.device().kind == MemoryKind::kDevice; };
  if (frame && (std::ranges::any_of(frame->parts, in_device) || (frame->leases && must_wait(*frame))))
    replace({Code::kUnimplemented, "device tensors cannot be in the answer of a call with a token",
             options_.node_name});
  if (frame && bytes_of(*frame) > options_.limits.max_message_bytes)
    replace({Code::kResourceExhausted, "the answer is longer than the messages that are allowed",
             options_.node_name});
  if (!frame || !keep || !keep_answer(caller, call, *frame)) answers_->forget(caller, id);
  if (!frame) return;
  send_kept(call, *frame);
  if (!keep) return begin_repeats(caller, std::move(repeats));
  for (const InboundCallPtr& repeat : repeats) {
    forget(*repeat);
    send_kept(*repeat, *frame);
  }
}

/// What they repeat never ran: the latest of them does, and the others wait for that one.
void EndpointCore::begin_repeats(std::uint64_t caller, std::vector<InboundCallPtr>&& repeats) {
  for (auto repeat = repeats.rbegin(); repeat != repeats.rend(); ++repeat)
    if (!take_repeat(*repeat, caller)) hand_on(std::move(*repeat));
}

void EndpointCore::send_kept(const InboundCall& call, const OutFrame& answer) {
  if (call.header().kind != MessageKind::kRequest || call.cancelled_) return;
  OutFrame frame{Buffer::copy_of(answer.head.bytes()), answer.parts};
  patch_call_id(frame.head, call.header().call_id);
  call.metered_.sent(bytes_of(frame));
  // It was sent once, so it can be sent; if not, the caller's session is ending.
  (void)send_frame(call.session_, std::move(frame), Flow::kReply);
}

}  // namespace troupe::rpc
