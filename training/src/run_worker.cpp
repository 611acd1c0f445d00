// A worker's process, from its first call to its last.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <utility>

#include <troupe/actors/stop_signals.hpp>
#include <troupe/kernels/blas.hpp>

#include "coordinator.hpp"
#include "roles.hpp"
#include "worker.hpp"

namespace troupe::training {

namespace {

using SteadyClock = std::chrono::steady_clock;

/// The chief has gone, or is going: the job is over, in whatever way; the chief and the launcher tell how.
bool is_over(const Error& error) {
  return error.code == Code::kUnavailable || error.code == Code::kCancelled || error.code == Code::kNotFound;
}

class WorkerProcess {
 public:
  WorkerProcess(Node& node, const Program& program, double speed)
      : node_(node), program_(program), speed_(speed), task_(program.make_task()) {}

  int run() {
    if (auto there = node_.wait_for_actor(Coordinator::kName, std::chrono::seconds(30)); !there) {
      say("there is no job at this address: " + there.error().message);
      return 1;
    }
    auto text = node_.rpc_sync<std::string>(Coordinator::kName, "settings");
    if (!text) return chief_failed(text.error());
    JobSettings settings = program_.defaults;
    auto flags = flag_words_from_json(*text);
    if (!flags) return fail(flags.error());
    if (auto set = apply(*flags, settings, *task_); !set) return fail(set.error());
    if (auto loaded = load(); !loaded) return fail(loaded.error());
    Worker worker(node_, std::move(settings), *task_, speed_);
    if (auto known = node_.rpc_sync<void>(Coordinator::kName, "hello", node_.name(), speed_); !known)
      return chief_failed(known.error());
    return work(worker);
  }

 private:
  int work(Worker& worker) {
    WorkDone done;
    for (;;) {
      const bool waiting = done.work.kind == WorkKind::kWait;
      const auto start = SteadyClock::now();
      auto next = node_.rpc_sync<Work>(Coordinator::kName, "next", node_.name(), done);
      if (!next) return chief_failed(next.error());
      if (!waiting)
        next_latency_.record(
            static_cast<std::uint64_t>(std::chrono::nanoseconds(SteadyClock::now() - start).count()));
      if (next->kind == WorkKind::kFinish) return say_farewell(worker);
      done = WorkDone{};
      if (next->kind == WorkKind::kWait) {
        worker.rest();
        continue;
      }
      auto outcome = worker.run(*next);
      if (!outcome) {
        worker.rest();  // at the bound others wait for those who take part, also for who has failed
        return fail(outcome.error());
      }
      done = std::move(*outcome);
    }
  }

  /// Reads the data while the node goes on giving signs of life.
  Result<void> load() {
    Loop& loop = node_.loop();
    bool done = false;  // with the loop's turn
    auto loading = std::async(std::launch::async, [&] {
      auto loaded = task_->load();
      loop.post([&] { done = true; });
      return loaded;
    });
    while (!loop.wait_until([&] { return done; }, loop.clock().now() + std::chrono::seconds(60))) {
    }
    return loading.get();
  }

  int say_farewell(Worker& worker) {
    worker.rest();
    std::map<std::string, std::vector<std::uint64_t>> latencies;
    for (const auto& [method, histogram] : worker.latencies()) latencies[method] = histogram.serialise();
    latencies["next (of the coordinator)"] = next_latency_.serialise();
    auto said = node_.rpc_sync<void>(Coordinator::kName, "farewell", node_.name(), latencies);
    if (!said) return chief_failed(said.error());
    (void)node_.leave(kLeavePatience);
    return 0;
  }

  /// Tells the chief, which tells people, and waits for the end of the job: a server that died is the end of
  /// it, and one line about that is enough.
  int fail(const Error& error) {
    const WorkerFailure failure{error.code, error.message};
    if (!node_.rpc_sync<void>(Coordinator::kName, "failed", node_.name(), failure)) return 0;
    (void)node_.run();
    return error.code == Code::kUnavailable ? 0 : 1;
  }

  int chief_failed(const Error& error) const {
    if (is_over(error)) return 0;
    say("the chief does not answer: " + error.message);
    return 1;
  }

  void say(const std::string& what) const {
    std::fprintf(stderr, "%s: %s: %s\n", program_.name.c_str(), node_.name().c_str(), what.c_str());
  }

  Node& node_;
  const Program& program_;
  double speed_;
  std::unique_ptr<Task> task_;
  Histogram next_latency_;
};

}  // namespace

int run_worker(const Place& place, const Program& program, double speed) {
  StopSignals signals;
  // Ctrl-C goes to all processes of the job: the chief ends it, and with the chief this one ends.
  std::atomic<bool> joined{false};
  signals.start([&](int signal) {
    if (!signals.ends_within(joined ? kChiefEndsFirst : kStartsUp)) std::_Exit(128 + signal);
  });
  kernels::set_blas_threads(1);  // workers are what there are many of
  NodeOptions options;
  options.name = place.name;
  options.role = "worker";
  options.registry = place.registry;
  options.transport.transports = place.transport;
  options.metrics_address = place.metrics_address;
  options.silence_limit = kJobSilenceLimit;
  options.own_thread = false;  // nobody calls a worker, and its own calls drive the loop: no thread switches
  auto node = Node::start(options);
  if (!node) {
    std::fprintf(stderr, "%s: %s\n", program.name.c_str(), node.error().message.c_str());
    return node.error().code == Code::kUnavailable ? 1 : 2;
  }
  joined = true;
  return WorkerProcess(**node, program, speed).run();
}

}  // namespace troupe::training
