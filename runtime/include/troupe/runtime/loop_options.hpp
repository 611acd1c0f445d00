#pragma once

#include <functional>
#include <string>

#include <troupe/runtime/clock.hpp>

namespace troupe {

struct LoopOptions {
  /// How long an idle loop polls before it sleeps in epoll; from `yield_after` on it gives the core
  /// away between two polls, so that more busy processes than cores do not stop each other.
  Duration spin{std::chrono::microseconds(50)};
  Duration yield_after{std::chrono::microseconds(10)};
  /// Simulation: called instead of sleeping. It makes the world go on until something happens or
  /// `until` has come.
  std::function<void(TimePoint until)> idle = {};
  /// Told, with the turn, what a task, timer, source or descriptor handler threw: "a timer threw: ...". The
  /// loop goes on. None: it is written to standard error. When many are thrown it is told of some.
  std::function<void(const std::string& what)> on_exception = {};
  /// Whether threads that wait drive the loop meanwhile. If not they only wait to be told, and run nothing of
  /// others'; some thread must be in run() then.
  bool help = true;
};

}  // namespace troupe
