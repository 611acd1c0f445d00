#pragma once

#include <cstddef>
#include <memory>

#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/task.hpp>

namespace troupe {

/// What is to be done on one table, in the order in which it came. What takes long is done in pieces, between
/// which the loop does other things, but nothing else on this table: nobody sees a half of it. Loop only.
class TableWork {
 public:
  /// Does a piece; true: that was the last. What it does last may do anything, also end this.
  using Job = UniqueFunction<bool()>;

  explicit TableWork(Loop& loop);
  /// Drops what has not ended.
  ~TableWork();
  TableWork(const TableWork&) = delete;
  TableWork& operator=(const TableWork&) = delete;

  /// Nothing is to be done before what comes now, which may then be done at once.
  bool free() const;
  /// Begins at once if it is free().
  void add(Job job);
  /// Within a job: what goes on in its place, before all others that wait. Else as add().
  void next(Job job);
  /// No further job begins until let_go(). When the one that has begun has ended, `settled` runs: at once if
  /// there is none. Precondition: not held.
  void hold(UniqueFunction<void()> settled);
  void let_go();

 private:
  struct State;
  static void schedule(const std::shared_ptr<State>& state);
  static bool run(Loop& loop, Job& job);
  static void go_on(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace troupe
