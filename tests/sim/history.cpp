#include "history.hpp"

#include <algorithm>

namespace troupe::sim {

namespace {

/// How late a call may end after its deadline: in virtual time nothing but the network takes any.
constexpr Duration kLate = std::chrono::milliseconds(2);
/// Until everybody has heard of a new node and its actor, without trouble.
constexpr Duration kSpread = std::chrono::milliseconds(5);
/// In this time a message without trouble arrives.
constexpr Duration kArrival = std::chrono::milliseconds(2);

TimePoint end_of(const Call& call) {
  return call.kind == CallKind::kOneWay ? call.begun + kArrival : call.ended_at;
}

/// Before it a call does not end for want of time.
Duration least_wait(CallKind kind, Duration timeout) {
  switch (kind) {
    case CallKind::kMeeting:
      return kBarrierTime;
    case CallKind::kRetried:
    case CallKind::kObject:     // its creation is repeated
      return Duration::zero();  // the last of all attempts may be short of time
    default:
      return timeout;
  }
}

std::string name_of(CallKind kind) {
  switch (kind) {
    case CallKind::kAsync:
      return "async";
    case CallKind::kSync:
      return "sync";
    case CallKind::kChain:
      return "chain";
    case CallKind::kSyncChain:
      return "sync chain";
    case CallKind::kOneWay:
      return "one-way";
    case CallKind::kRetried:
      return "retried";
    case CallKind::kStream:
      return "stream";
    case CallKind::kObject:
      return "object";
    case CallKind::kMeeting:
      return "meeting";
  }
  return "?";
}

}  // namespace

void History::end_trouble_between(std::uint64_t a, std::uint64_t b, TimePoint end) {
  for (Interval& when : pairs_[std::minmax(a, b)])
    if (when.to == TimePoint::never()) when.to = end;
}

std::vector<std::string> History::faults(TimePoint now) const {
  std::vector<std::string> found;
  for (std::size_t number = 0; number < calls_.size(); ++number) {
    const Call& call = calls_[number];
    const std::string fault = fault_of(call, now);
    if (fault.empty()) continue;
    std::string text = "call " + std::to_string(number) + ", " + name_of(call.kind) + " from life " +
                       std::to_string(call.caller) + " through";
    for (const int index : call.path) text += " n" + std::to_string(index);
    text += ", begun at " + std::to_string(call.begun.ns) + " ns, ended " + std::to_string(call.ended) +
            " times, at " + std::to_string(call.ended_at.ns) + " ns with " +
            std::string(to_string(call.code)) + ", executed " + std::to_string(call.executed) +
            " times: " + fault;
    found.push_back(std::move(text));
  }
  return found;
}

std::string History::fault_of(const Call& call, TimePoint now) const {
  if (call.twice_in_a_life) return "it was carried out more than once in one life of its callee";
  // The actor of a name has another life when it comes again: a repeat that reaches it runs.
  if (call.executed > 1 && call.kind != CallKind::kRetried) return "it was carried out more than once";
  if (call.gap) return "items of its stream were lost, or came in another order";
  if (call.executed > 0 && lives_.at(call.executed_by).index != call.path.back())
    return "another node carried it out";
  if (call.kind == CallKind::kOneWay) {
    if (now < call.begun + kArrival || call.executed == 1 || explained(call)) return "";
    return "a one-way message was lost without a reason";
  }
  if (call.ended != 1) return "it did not end exactly once";
  // A synchronous call cannot return before the waits above it on the stack do.
  const bool held_up =
      (call.kind == CallKind::kSync || call.kind == CallKind::kMeeting) && troubled(nested_, call);
  if (call.ended_at > latest_end(call) && !held_up) return "it ended too late";
  if (call.code == Code::kOk) return fault_of_success(call);
  const bool had_taken = std::any_of(call.taken.begin(), call.taken.end(),
                                     [&](const auto& by) { return finishes(by.first, call); });
  if (had_taken && !explained(call, true))
    return "a node that has left in order had taken it, and broke it off";
  switch (call.code) {
    case Code::kNotFound:
      // A repeat may find nobody any more.
      if (call.executed != 0 && call.kind != CallKind::kRetried) return "NOT_FOUND, but it was carried out";
      return explained(call) ? "" : "NOT_FOUND, though everybody knows the actor";
    case Code::kDeadlineExceeded:
      if (call.ended_at - call.begun < least_wait(call.kind, timeout_) - kLate)
        return "DEADLINE_EXCEEDED before its deadline";
      return explained(call) ? "" : "DEADLINE_EXCEEDED without a reason";
    case Code::kUnavailable:
      return explained(call) ? "" : "UNAVAILABLE without a reason";
    case Code::kCancelled:
      // Only who shuts down cancels: the caller, or who was to answer.
      return all_steady(call) ? "CANCELLED, though all that take part have stayed" : "";
    default:
      return "an outcome that nothing here can have";
  }
}

std::string History::fault_of_success(const Call& call) const {
  const auto number = static_cast<std::uint64_t>(&call - calls_.data());
  if (call.executed == 0) return "OK, but it was not carried out";
  if (call.kind == CallKind::kStream && call.items != items_of(number)) return "its stream ended too early";
  return call.value == static_cast<std::int64_t>(number) ? "" : "OK, with a wrong value";
}

/// Its deadline and a little; who stands still then finds it past when it goes on.
TimePoint History::latest_end(const Call& call) const {
  // Each item of a stream may take as long as a call.
  const auto number = static_cast<std::uint64_t>(&call - calls_.data());
  const auto waits = call.kind == CallKind::kStream ? static_cast<std::int64_t>(items_of(number)) + 1 : 1;
  TimePoint latest = call.begun + waits * timeout_ + kLate;
  for (const Interval& stall : lives_.at(call.caller).stalls)
    if (stall.meets(call.begun + timeout_, latest)) latest = std::max(latest, stall.to + kLate);
  return latest;
}

bool History::finishes(std::uint64_t life, const Call& call) const {
  const Life& known = lives_.at(life);
  return known.drained && std::any_of(call.taken.begin(), call.taken.end(), [&](const auto& by) {
           return by.first == life && by.second < known.leaving;
         });
}

bool History::steady(std::uint64_t life, const Call& call, bool finishing) const {
  const Life& known = lives_.at(life);
  if (!known.has_actor || known.started + kSpread > call.begun) return false;
  if (finishing && finishes(life, call)) return known.ended + kArrival > end_of(call);
  return std::min(known.leaving, known.ended) > end_of(call);
}

bool History::all_steady(const Call& call) const {
  return steady(call.caller, call) && std::all_of(call.path.begin(), call.path.end(),
                                                  [&](int index) { return steady_life(index, call) != 0; });
}

std::uint64_t History::steady_life(int index, const Call& call, bool finishing) const {
  for (const auto& [life, known] : lives_)
    if (known.index == index && steady(life, call, finishing)) return life;
  return 0;
}

bool History::troubled(const std::vector<Interval>& troubles, const Call& call) const {
  return std::any_of(troubles.begin(), troubles.end(),
                     [&](const Interval& when) { return when.meets(call.begun, end_of(call)); });
}

bool History::explained(const Call& call, bool finishing) const {
  if (troubled(everywhere_, call) || troubled(nested_, call)) return true;
  std::uint64_t from = call.caller;
  if (!steady(from, call, finishing) || troubled(lives_.at(from).troubles, call)) return true;
  for (const int index : call.path) {
    const std::uint64_t to = steady_life(index, call, finishing);
    if (to == 0 || troubled(lives_.at(to).troubles, call)) return true;
    const auto between = pairs_.find(std::minmax(from, to));
    if (between != pairs_.end() && troubled(between->second, call)) return true;
    from = to;
  }
  return others_explain(call, finishing);
}

/// Of those who are to come to one place, and of the first node, which counts them, each must reach it.
bool History::others_explain(const Call& call, bool finishing) const {
  if (call.with.empty()) return false;
  const std::uint64_t first = steady_life(0, call);
  return first == 0 || std::any_of(call.with.begin(), call.with.end(), [&](int index) {
           const std::uint64_t life = steady_life(index, call, finishing);
           if (life == 0 || troubled(lives_.at(life).troubles, call)) return true;
           for (const std::uint64_t other : {first, call.caller}) {
             const auto between = pairs_.find(std::minmax(life, other));
             if (between != pairs_.end() && troubled(between->second, call)) return true;
           }
           return false;
         });
}

}  // namespace troupe::sim
