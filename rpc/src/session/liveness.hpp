#pragma once

#include <optional>
#include <vector>

#include <troupe/rpc/endpoint.hpp>
#include <troupe/runtime/timer.hpp>

namespace troupe::rpc {

class EndpointCore;
class Session;

/// What one side of a link knows of the other one's life. Part of a session.
struct SignsOfLife {
  TimePoint heard{};                            ///< when anything came last, on either way
  TimePoint attended_from{};                    ///< silence before that is nobody's: nobody asked
  TimePoint suspected_at = TimePoint::never();  ///< Endpoint::suspect(), and not heard since
  bool listed = false;                          ///< in Liveness's list
  bool attended = false;                        ///< asked, and judged
  bool watched = false;                         ///< also while nothing is open: Endpoint::keep_watch()

  bool suspected() const { return suspected_at != TimePoint::never(); }
  TimePoint silent_since() const { return heard > attended_from ? heard : attended_from; }
};

/// Asks peers whether they live, and judges their silence.
///
/// A link *rests* while nothing is open on it: nobody asks on it, no timer knows it, and what it costs does
/// not grow with how many there are. It is *attended* while it meets, while a call or a stream of ours is
/// open on it, while it is watched, or suspected. An attended peer of which nothing was heard for half a
/// heartbeat interval is asked, in each interval, and its loop answers; silence for the silence limit ends
/// the link. The end of the socket ends a link at any time, and needs nobody's attention.
///
/// Who is slow himself judges others mildly (Dadgar, Phillips, Currey: Lifeguard, 2017): after a tick that
/// came late nobody is judged until the next one, and with each such tick a quarter of the silence limit is
/// added to everybody's, up to as much again; ticks in time take it away again.
class Liveness final : public TimerNode {
 public:
  explicit Liveness(EndpointCore& owner) : endpoint_(owner) {}

  /// From now on until a tick finds nothing open. Precondition: it is not attended.
  void attend(Session& session);
  /// Memory of the peer is mapped, which it may give up: looked at in each tick, without a word to the peer.
  void list(Session& session);
  /// There is something that the tick gives up when its time has come.
  void wake();
  void suspect(Session& session, Duration silence);

 private:
  void on_timer() override;
  struct Verdicts;
  void look_at(Session& session, TimePoint now, bool listening, Verdicts& verdicts);
  bool listens(TimePoint now);
  static bool needs_attention(const Session& session);
  std::optional<Error> judge(const Session& session, TimePoint now) const;
  void ask(Session& session);
  Duration tick() const;
  Duration patience(Duration limit) const { return limit + limit / 4 * slowness_; }

  EndpointCore& endpoint_;
  std::vector<SessionId> listed_;  // some may have ended
  bool was_held_up_ = false;       // the loop, at the last tick
  int slowness_ = 0;               // of this loop, 0 to kSlowest
};

}  // namespace troupe::rpc
