#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include <troupe/rpc/call.hpp>
#include <troupe/rpc/endpoint.hpp>
#include <troupe/rpc/transport.hpp>

namespace troupe::rpc {

/// What is remembered of calls with a token: those that run, and the answers of those that have run, for
/// each caller's node within AnswerLimits. Loop only.
class Answers {
  struct Caller;

 public:
  /// What tells a caller's call from its others: an actor that has taken the name of a dead one has not run
  /// what that one has.
  struct Id {
    std::uint64_t token = 0;
    std::uint64_t actor = 0;
    bool operator==(const Id&) const = default;
  };
  static Id id_of(const InboundCall& call) { return {call.header().token, call.header().target}; }

  struct Record {
    std::uint64_t method = 0;
    InboundCall* first = nullptr;         // while it runs
    std::vector<InboundCallPtr> repeats;  // that wait for the first one's answer
    std::optional<OutFrame> answer;       // once it has run, and then also:
    std::size_t bytes = 0;                // of the answer
    Id id;
    Caller* owner = nullptr;
    TimePoint until{};
    Record* earlier = nullptr;  // of those of all callers
    Record* later = nullptr;
  };

  explicit Answers(AnswerLimits limits) : limits_(limits) {}
  Answers(const Answers&) = delete;
  Answers& operator=(const Answers&) = delete;

  /// What is known of a call; null if nothing.
  Record* find(std::uint64_t caller, const Id& id);
  /// A call of which nothing is known begins. Null: too many callers have calls running here.
  Record* begin(std::uint64_t caller, const Id& id);
  /// A call has ended with `answer`, which nobody else may write into. Gives up the oldest answers if these
  /// are too many.
  void keep(std::uint64_t caller, const Id& id, OutFrame answer, TimePoint now);
  /// A call ended without having begun.
  void forget(std::uint64_t caller, const Id& id);
  /// A caller will not come back: expire() gives its answers up. Those of its calls that still run are not
  /// kept.
  void caller_gone(std::uint64_t caller);
  /// Gives up what is older than the window, or of callers that are not known any more: `most` answers at
  /// once, and not many more than kMostBytes. Returns how many.
  std::size_t expire(TimePoint now, std::size_t most = SIZE_MAX);
  static constexpr std::size_t kMostBytes = std::size_t{4} << 20;
  /// Whether there is anything for expire() to do.
  bool is_due(TimePoint now) const {
    return !gone_.empty() || !forgotten_.empty() || (oldest_ && oldest_->until <= now);
  }

  const AnswerLimits& limits() const { return limits_; }
  /// Of all callers, those that are to be given up among them.
  std::size_t kept_answers() const { return kept_; }
  std::size_t kept_bytes() const { return bytes_; }

 private:
  struct IdHash {
    std::size_t operator()(const Id& id) const {
      return static_cast<std::size_t>(id.token ^ (id.actor * 0x9e3779b97f4a7c15U));
    }
  };
  struct Caller {
    std::uint64_t node_id = 0;
    std::unordered_map<Id, Record, IdHash> records;
    std::deque<Record*> kept;  // those that have an answer, the oldest first
    std::size_t bytes = 0;
    TimePoint last{};  // when its latest answer was kept
    bool gone = false;
  };
  using Callers = std::unordered_map<std::uint64_t, Caller>;
  void give_up_oldest(Caller& caller);
  void keep_within_total(Caller& latest);
  Caller* heaviest();
  void erase_if_empty(Caller& caller);
  bool make_room();
  void link(Record& record);
  void unlink(Record& record);

  AnswerLimits limits_;
  Callers callers_;
  std::size_t bytes_ = 0;                      // kept of all callers
  std::size_t kept_ = 0;                       // answers
  Record* oldest_ = nullptr;                   // of the answers of all callers
  Record* latest_ = nullptr;                   // likewise
  std::uint64_t heaviest_ = 0;                 // had more than its share when it was last looked for
  std::deque<std::uint64_t> gone_;             // callers whose answers are to be given up
  std::vector<Callers::node_type> forgotten_;  // others had no room beside them
};

}  // namespace troupe::rpc
