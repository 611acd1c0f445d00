#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/loop.hpp>

namespace troupe::rpc {

/// How a simulated network behaves. Times are virtual.
struct SimOptions {
  std::uint64_t seed = 1;
  Duration latency{std::chrono::microseconds(10)};        ///< one way
  Duration latency_jitter{std::chrono::microseconds(5)};  ///< uniformly added
  double bytes_per_second = 1e10;
  Duration death_notice{std::chrono::milliseconds(1)};  ///< from kill() to on_closed() at the peers
  /// Chances for each data message; control is reliable, like the socket that it stands for.
  double loss = 0, duplication = 0, corruption = 0, reordering = 0;
};

/// A network of simulated hosts and the virtual time in which they live. Everything runs on the
/// calling thread and depends on the seed alone: a failure replays from it.
///
///     SimWorld world({.seed = 7});
///     Loop a(world.clock(), world.loop_options()), b(world.clock(), world.loop_options());
///     auto ta = world.make_transport(a, "a"), tb = world.make_transport(b, "b");
///     world.run_until([&] { return done; }, deadline);
class SimWorld {
 public:
  explicit SimWorld(SimOptions options = {});
  ~SimWorld();
  SimWorld(const SimWorld&) = delete;
  SimWorld& operator=(const SimWorld&) = delete;

  Clock& clock();
  /// For Loops of this world: waiting on one of them makes the whole world go on.
  LoopOptions loop_options();
  /// A transport of `host`, driven by `loop`. It must not outlive the world; destroying it is a clean
  /// end of its process. Addresses: "<host>:<port>", port 0 is chosen.
  std::unique_ptr<Transport> make_transport(Loop& loop, std::string host);

  /// Lets everything happen that is due, then moves time to the next event, but not past `until`.
  /// False: nothing is left to happen before `until`, which is now the time.
  bool step(TimePoint until);
  /// Steps until done() or `deadline`; returns done().
  bool run_until(const std::function<bool()>& done, TimePoint deadline);
  bool run_for(Duration duration);
  /// How many messages were sent in it so far, control and data.
  std::uint64_t messages() const;

  // ---- Faults -----------------------------------------------------------------------------------
  /// The host dies at once: nothing of it is sent or received any more; peers see their links close
  /// after death_notice.
  void kill(std::string_view host);
  /// The host stops (SIGSTOP) or goes on: while stopped its loop is not driven; peers see nothing.
  void stop(std::string_view host);
  void resume(std::string_view host);
  /// Cuts or mends the way between two hosts, silently, in both directions.
  void set_partition(std::string_view a, std::string_view b, bool cut);
  SimOptions& options();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace troupe::rpc
