#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "endpoint/core.hpp"
#include "session/session.hpp"

/// What the loop calls of an endpoint.
namespace troupe::rpc {

/// Sends what waits as room comes free: asked in every round of the loop while anything waits.
class EndpointCore::FlowPump final : public Source, private TimerNode {
 public:
  explicit FlowPump(EndpointCore& owner) : endpoint_(owner) {}
  ~FlowPump() override;
  void add(Session& session);
  /// The same, though nothing may happen that has the loop run a round.
  void hurry(Session& session);
  int poll() override;

 private:
  void on_timer() override { (void)poll(); }

  EndpointCore& endpoint_;
  std::vector<SessionId> sessions_;  // those with something that waits, either way
};

/// A session that has ended, and what is to be said of it. Whoever works on it holds it: a handler that is
/// told may wait, and so have the loop go on with it, to its end.
struct EndedSession {
  std::unique_ptr<Session> session;
  Error error;
  bool is_told = false;   // the layer above
  bool done = false;      // nothing of it is left, and that has been told
  std::size_t chain = 0;  // of InboundCalls::any()
  EndedSessions::iterator at;
};

/// What ends together, but not at once: what sessions that have ended leave open, the calls of a call that
/// was cancelled, and answers that are kept no longer. So many end in a round of the loop and the others in
/// further ones, so that messages of others go between. A session's end is told when nothing of it is left.
class EndpointCore::Endings final : private TimerNode {
 public:
  static constexpr std::string_view kWhere = "the end of a session";

  explicit Endings(EndpointCore& owner) : endpoint_(owner) {}
  /// Takes a session that is not in the registry any more. Needs no memory.
  void begin(std::unique_ptr<Session> session, Error error, bool is_told);
  /// Cancels all these calls of ours, likewise.
  void cancel(std::span<const std::uint64_t> call_ids);
  /// Those that are kept for repeats, if any are to be given up, from the next round on.
  void give_up_answers();
  /// All that is left, at once, but for answers.
  void finish();

  /// Of one peer, `most` at once; returns how many.
  static std::size_t end_streams(PeerCalls& calls, const Error& error, std::size_t most);
  static std::size_t fail_calls(PeerCalls& calls, const Error& error, std::size_t most);

 private:
  void on_timer() override;
  void go_on(bool to_the_end);
  bool idle() const { return ended_.empty() && cancelled_.empty() && !answers_are_due_; }
  std::size_t room();
  void take_room(std::size_t count);
  bool end_some(EndedSession& ended, std::size_t most);
  void finished(EndedSession& ended);

  EndpointCore& endpoint_;
  EndedSessions ended_;                  // the first is worked on
  std::deque<std::uint64_t> cancelled_;  // calls
  bool answers_are_due_ = false;
  std::uint64_t round_ = 0;  // of the loop, in which
  std::size_t room_ = 0;     // so many may still end
};

/// Fires when messages of an endpoint to itself wait.
struct EndpointCore::LocalDelivery final : TimerNode {
  explicit LocalDelivery(EndpointCore& owner) : endpoint(owner) {}
  EndpointCore& endpoint;

 private:
  void on_timer() override { endpoint.deliver_waiting_local(); }
};

}  // namespace troupe::rpc
