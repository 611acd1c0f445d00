#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/error.hpp>

/// What happened in one schedule, and whether the outcome of each call is the truth about it.
namespace troupe::sim {

struct Interval {
  TimePoint from, to;
  bool meets(TimePoint begin, TimePoint end) const { return from <= end && begin <= to; }
};

/// The life of a node: from its start to its death or leaving.
struct Life {
  int index = 0;  ///< it is named after it, as all lives of the same node
  TimePoint started;
  TimePoint leaving = TimePoint::never();  ///< from when on it refuses calls
  TimePoint ended = TimePoint::never();
  bool has_actor = false;
  bool drained = false;  ///< it has left, and all that was open has been finished, it says
  std::vector<Interval> troubles = {};
  std::vector<Interval> stalls = {};  ///< when nothing of it ran
};

/// kRetried carries a token and is repeated. kStream is a stream that is read to its end, kObject a call on
/// an object that was made for it at another node, kMeeting one that waits in a barrier with others.
enum class CallKind { kAsync, kSync, kChain, kSyncChain, kOneWay, kRetried, kStream, kObject, kMeeting };

/// A call as its caller sees it, and as it was carried out.
struct Call {
  CallKind kind = CallKind::kAsync;
  std::uint64_t caller = 0;  ///< the life
  std::vector<int> path;     ///< indices of the nodes that it goes through, the last one carries it out
  std::vector<int> with;     ///< indices of others without whom it cannot end well
  TimePoint begun;
  int ended = 0;
  TimePoint ended_at;
  Code code = Code::kOk;
  std::int64_t value = 0;
  int executed = 0;
  std::uint64_t executed_by = 0;  ///< the life
  /// The lives that have taken it in, and when: those that carry it out, or pass it on.
  std::vector<std::pair<std::uint64_t, TimePoint>> taken = {};
  bool twice_in_a_life = false;  ///< carried out more than once in one life of the callee
  std::uint64_t items = 0;       ///< of a stream, as they came
  bool gap = false;              ///< items were missing, or in another order
};

/// How long a barrier is waited for.
inline constexpr Duration kBarrierTime = std::chrono::milliseconds(100);

/// Items of the stream that belongs to a call.
constexpr std::uint64_t items_of(std::uint64_t call) {
  return 1 + call % 12;
}

/// Lives, troubles and calls. Every fault of the network or a node is noted here by who makes it, with the
/// time in which it can explain that a call fails.
class History {
 public:
  explicit History(Duration call_timeout) : timeout_(call_timeout) {}

  void begin_life(std::uint64_t life, int index, TimePoint now) {
    lives_[life] = {.index = index, .started = now};
  }
  void has_actor(std::uint64_t life) { lives_[life].has_actor = true; }
  void end_life(std::uint64_t life, TimePoint now) { lives_[life].ended = now; }
  void begin_leaving(std::uint64_t life, TimePoint now) { lives_[life].leaving = now; }
  void has_drained(std::uint64_t life) { lives_[life].drained = true; }
  void trouble(std::uint64_t life, Interval when) { lives_[life].troubles.push_back(when); }
  void stall(std::uint64_t life, Interval when) { lives_[life].stalls.push_back(when); }
  void trouble_between(std::uint64_t a, std::uint64_t b, Interval when) {
    pairs_[std::minmax(a, b)].push_back(when);
  }
  /// Troubles between two without an end have one now.
  void end_trouble_between(std::uint64_t a, std::uint64_t b, TimePoint end);
  void trouble_everywhere(Interval when) { everywhere_.push_back(when); }
  /// A handler waited so long for a call of its own: one thread carries all, so that waits below it on the
  /// stack end later.
  void nested_wait(Interval when) { nested_.push_back(when); }

  std::uint64_t begin_call(Call call) {
    calls_.push_back(std::move(call));
    return calls_.size() - 1;
  }
  Call& call(std::uint64_t number) { return calls_[number]; }
  const std::vector<Call>& calls() const { return calls_; }

  /// What is wrong, one line each. `now`: all calls should have ended.
  std::vector<std::string> faults(TimePoint now) const;

 private:
  std::string fault_of(const Call& call, TimePoint now) const;
  /// `finishing`: a life that drained, and had taken the call before, explains nothing.
  bool explained(const Call& call, bool finishing = false) const;
  TimePoint latest_end(const Call& call) const;
  bool troubled(const std::vector<Interval>& troubles, const Call& call) const;
  /// The life of node `index` that was there, and known to all, for the whole of the call; 0: none.
  std::uint64_t steady_life(int index, const Call& call, bool finishing = false) const;
  bool steady(std::uint64_t life, const Call& call, bool finishing = false) const;
  /// Whether a life took the call, then left, and says that it has finished all that it had taken.
  bool finishes(std::uint64_t life, const Call& call) const;
  bool all_steady(const Call& call) const;
  bool others_explain(const Call& call, bool finishing) const;
  std::string fault_of_success(const Call& call) const;

  Duration timeout_;
  std::map<std::uint64_t, Life> lives_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::vector<Interval>> pairs_;
  std::vector<Interval> everywhere_, nested_;
  std::vector<Call> calls_;
};

}  // namespace troupe::sim
