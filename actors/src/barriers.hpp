#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <troupe/rpc/future.hpp>
#include <troupe/runtime/timer.hpp>

namespace troupe {

/// The barriers at which nodes of a cluster wait for each other; the registry's. With the turn.
class Barriers {
 public:
  explicit Barriers(Loop& loop) : loop_(loop) {}

  /// `node` has come to the barrier `name`. The future is set when all `participants` have;
  /// kDeadlineExceeded after `timeout`, naming the missing. kInvalidArgument: it is none of them, or the
  /// others named other participants. kFailedPrecondition: it waits there already.
  rpc::Future<void> enter(const std::string& name, const std::string& node,
                          std::vector<std::string> participants, Duration timeout);
  /// Ends, with kUnavailable, the waits of those who wait for `node`.
  void gone(const std::string& node, const std::string& why);
  /// An answer at once.
  rpc::Future<void> refuse(Error error);
  /// For those who wait for `node`.
  static Error gone_error(const std::string& node, const std::string& why);

 private:
  struct Barrier;
  /// One who waits; its timer is the end of its patience.
  struct Arrival final : TimerNode {
    Arrival(Barriers& all, std::string at, std::string who)
        : barriers(all), barrier(std::move(at)), node(std::move(who)), promise(all.loop_) {}
    Barriers& barriers;
    std::string barrier, node;
    rpc::Promise<void> promise;

   private:
    void on_timer() override { barriers.give_up(barrier, node); }
  };
  struct Barrier {
    std::vector<std::string> participants;  // sorted
    std::map<std::string, std::unique_ptr<Arrival>> arrived;
  };
  void give_up(const std::string& barrier, const std::string& node);
  std::unique_ptr<Arrival> take(const std::string& barrier, const std::string& node);
  static void end(const Barrier& barrier, const Result<void>& outcome);

  Loop& loop_;
  std::map<std::string, Barrier> barriers_;  // at which somebody waits
};

}  // namespace troupe
