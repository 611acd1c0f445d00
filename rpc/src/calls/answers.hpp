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
    std::optional<OutFrame> answer;       // once it has run
    std::size_t bytes = 0;                // of the answer
  };

  explicit Answers(AnswerLimits limits) : limits_(limits) {}

  /// What is known of a call; null if nothing.
  Record* find(std::uint64_t caller, const Id& id);
  /// A call of which nothing is known begins. Null: too many callers have calls running here.
  Record* begin(std::uint64_t caller, const Id& id);
  /// A call has ended with `answer`, which nobody else may write into. Gives up the oldest answers if these
  /// are too many.
  void keep(std::uint64_t caller, const Id& id, OutFrame answer, TimePoint now);
  /// A call ended without having begun.
  void forget(std::uint64_t caller, const Id& id);
  /// A caller will not come back: its answers are given up, and those of its calls that still run.
  void caller_gone(std::uint64_t caller);
  /// Gives up what is older than the window.
  void expire(TimePoint now);

  const AnswerLimits& limits() const { return limits_; }
  /// Of all callers.
  std::size_t kept_answers() const;
  std::size_t kept_bytes() const { return bytes_; }

 private:
  struct IdHash {
    std::size_t operator()(const Id& id) const {
      return static_cast<std::size_t>(id.token ^ (id.actor * 0x9e3779b97f4a7c15U));
    }
  };
  struct Kept {
    Id id;
    TimePoint until;
  };
  struct Caller {
    std::unordered_map<Id, Record, IdHash> records;
    std::deque<Kept> kept;  // the oldest first; each has a record with an answer
    std::size_t bytes = 0;
    TimePoint last{};  // when its latest answer was kept
    bool gone = false;
  };
  void give_up_oldest(Caller& caller);
  void keep_within_total(Caller& latest);
  bool make_room();

  AnswerLimits limits_;
  std::unordered_map<std::uint64_t, Caller> callers_;
  std::size_t bytes_ = 0;  // kept of all callers
};

}  // namespace troupe::rpc
