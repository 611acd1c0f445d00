#pragma once

#include <cstdint>

namespace troupe {

/// Something a Loop polls for work: a UCX worker, a simulated network. All methods: loop only.
class Source {
 public:
  virtual ~Source() = default;
  /// Does what there is to do without waiting; returns how many events it handled. May be entered again from
  /// inside a handler that waits for a call. Should not throw: see Loop.
  virtual int poll() = 0;
  /// A descriptor that becomes readable when there may be work after arm(); -1 if there is none, then
  /// a loop with this source never sleeps longer than 1 ms.
  virtual int event_fd() const { return -1; }
  /// Asks for event_fd() to become readable at the next event. False if there are events already: poll
  /// again instead of sleeping.
  virtual bool arm() { return true; }
};

/// Told when a watched descriptor is ready.
class FdHandler {
 public:
  virtual ~FdHandler() = default;
  /// `events` as of epoll (EPOLLIN ...). Loop only; may unwatch and destroy itself.
  virtual void on_ready(std::uint32_t events) = 0;
};

}  // namespace troupe
