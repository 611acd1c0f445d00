#pragma once

#include <atomic>
#include <deque>
#include <mutex>
#include <vector>

#include <troupe/runtime/loop.hpp>

#include "caf_internals.hpp"

namespace troupe {

/// Runs CAF actors on a Loop. An actor that was made with this unit as its host, and that passes it to
/// every enqueue(), never runs anywhere else.
///
/// exec_later(): any thread. The rest: with the loop's turn.
class LoopUnit final : public ActorRunner {
 public:
  LoopUnit(caf::actor_system& system, Loop& loop) : ActorRunner(system), loop_(loop) {}
  ~LoopUnit() override;

  Loop& loop() { return loop_; }
  void exec_later(caf::resumable* job) override;
  /// Resumes what is ready, and what becomes ready through it, but each actor at most once: one that
  /// always has more to do waits for the loop's next round.
  void run();
  /// From now on jobs from other threads are dropped: the loop is about to end.
  void close();

 private:
  void wake();
  void post_foreign();

  Loop& loop_;
  std::deque<caf::resumable*> ready_;  // each with one reference of ours
  bool wake_scheduled_ = false;
  std::mutex foreign_mutex_;
  std::vector<caf::resumable*> foreign_;  // from other threads
  bool foreign_posted_ = false;
  bool closed_ = false;
};

}  // namespace troupe
