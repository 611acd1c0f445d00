// Events, faults and the loop on a driver whose streams go on when a test says so.
#include <troupe/runtime/stream.hpp>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/runtime/gpu.hpp>
#include <troupe/runtime/gpu_memory.hpp>
#include <troupe/runtime/gpu_usage.hpp>

#include "scripted_driver.hpp"

using namespace troupe;
using troupe::test::ScriptedDriver;
using namespace std::chrono_literals;

namespace {

struct Machine {
  std::shared_ptr<ScriptedDriver::Script> script = std::make_shared<ScriptedDriver::Script>();
  Gpu gpu{std::make_unique<ScriptedDriver>(script)};
  Stream first = gpu.make_stream().value();
  Stream second = gpu.make_stream().value();
  void fail(const std::string& what) { script->broken = Error{Code::kInternal, what}; }
};

}  // namespace

TEST_CASE("an event passes with the stream's earlier work, and one of nothing has passed") {
  Machine machine;
  CHECK(Event().done());
  CHECK(Event().wait(0ns).ok());
  const Event event = machine.first.record().value();
  CHECK(!event.done());
  CHECK(event.wait(0ns).error().code == Code::kDeadlineExceeded);
  machine.script->run_all();
  CHECK(event.done());
  CHECK(event.wait(0ns).ok());
}

TEST_CASE("a stream waits for another's event on the device, and not for one that has passed or is its own") {
  Machine machine;
  const Event event = machine.first.record().value();
  REQUIRE(machine.first.wait_for(event));
  CHECK(machine.script->waits == 0);
  REQUIRE(machine.second.wait_for(event));
  CHECK(machine.script->waits == 1);
  const Event after = machine.second.record().value();
  ScriptedDriver::Script::run(*machine.script->queues[1]);
  CHECK(!after.done());
  machine.script->run_all();
  CHECK(after.done());
  REQUIRE(machine.second.wait_for(event));
  CHECK(machine.script->waits == 1);
}

TEST_CASE("what a process has had of a GPU is counted: memory of pools, kernels by name") {
  Machine machine;
  const GpuUsage none = usage_of(machine.gpu);
  CHECK(none.device_bytes == 0);
  CHECK(none.kernels.empty());
  {
    GpuPool pinned(machine.gpu, {.kind = MemoryKind::kPinned, .slab_bytes = 8192});
    GpuPool device(machine.gpu, {.slab_bytes = 4096});
    REQUIRE(device.allocate(100, machine.first).ok());
    REQUIRE(pinned.allocate(100, machine.first).ok());
    Stream gone = machine.gpu.make_stream().value();
    REQUIRE(machine.first.launched("gather", 0).ok());
    REQUIRE(machine.second.launched("gather", 0).ok());
    REQUIRE(gone.launched("step", 0).ok());
    CHECK_FALSE(gone.launched("step", 1).ok());
  }
  const GpuUsage usage = usage_of(machine.gpu);
  CHECK(usage.device_bytes == 4096);  // kept for the next pool
  CHECK(usage.pinned_bytes == 8192);
  CHECK(usage.kernels == std::vector<std::pair<std::string, std::uint64_t>>{{"gather", 2}, {"step", 1}});
  machine.script->run_all();
  CHECK(machine.gpu.release_idle() == 4096 + 8192);
  CHECK(usage_of(machine.gpu).device_bytes == 0);
}

TEST_CASE("a fault on the device is told to whoever waits, with the names of the kernels under way") {
  Machine machine;
  REQUIRE(machine.first.launched("gather", 0));
  machine.script->run_all();
  REQUIRE(machine.first.launched("adam", 0));
  REQUIRE(machine.first.launched("scatter", 0));
  const Event event = machine.first.record().value();
  machine.fail("an illegal memory access");
  const auto waited = event.wait(1s);
  REQUIRE(!waited);
  CHECK(waited.error().code == Code::kInternal);
  CHECK(waited.error().message == "failed on the GPU: kernel adam: an illegal memory access");
  // From now on everybody is told the same.
  CHECK(machine.second.launched("norm", 0).error().message == waited.error().message);
  CHECK(machine.second.record().error().message == waited.error().message);
  CHECK(machine.gpu.check().error().message == waited.error().message);
}

TEST_CASE("a launch that fails is told at once, with its own name, and nothing else has failed") {
  Machine machine;
  const auto launched = machine.first.launched("gather", 9);
  REQUIRE(!launched);
  CHECK(launched.error().message == "launching kernel gather: error 9");
  CHECK(machine.gpu.check().ok());
  CHECK(machine.first.launched("gather", 0).ok());
}

TEST_CASE("a launch that fails because an earlier kernel has is told with that one's name") {
  Machine machine;
  REQUIRE(machine.first.launched("adam", 0));
  machine.fail("an illegal memory access");
  CHECK(machine.first.launched("gather", 700).error().message ==
        "failed on the GPU: kernel adam: an illegal memory access");
}

TEST_CASE("the loop tells when events have passed, and has no source when none is waited for") {
  Machine machine;
  SimClock clock;
  Loop loop(clock);
  const Loop::Turn turn(loop);
  EventWatch watch(loop);
  std::vector<int> told;
  watch.when_done(Event(), [&](const Result<void>& outcome) { told.push_back(outcome.ok() ? 1 : -1); });
  watch.when_done(machine.first.record().value(),
                  [&](const Result<void>& outcome) { told.push_back(outcome.ok() ? 2 : -2); });
  CHECK(told.empty());
  loop.poll();
  CHECK(told == std::vector{1});
  machine.script->run_all();
  loop.poll();
  CHECK(told == std::vector{1, 2});
  CHECK(watch.waiting() == 0);
  const auto rounds = loop.poll();
  CHECK(rounds == 0);
}

TEST_CASE("the loop tells of a fault to those who wait for events that will never pass") {
  Machine machine;
  SimClock clock;
  Loop loop(clock);
  const Loop::Turn turn(loop);
  EventWatch watch(loop);
  REQUIRE(machine.first.launched("adam", 0));
  std::string message;
  watch.when_done(machine.first.record().value(), [&](const Result<void>& outcome) {
    if (!outcome) message = outcome.error().message;
  });
  machine.fail("an illegal memory access");
  clock.advance_to(clock.now() + 2ms);
  loop.refresh_now();
  loop.poll();
  CHECK(message == "failed on the GPU: kernel adam: an illegal memory access");
}

TEST_CASE("a watch tells all who wait, whatever one of them throws") {
  Machine machine;
  SimClock clock;
  Loop loop(clock);
  const Loop::Turn turn(loop);
  EventWatch watch(loop);
  int told = 0;
  watch.when_done(Event(), [](const Result<void>&) { throw std::runtime_error("no"); });
  watch.when_done(Event(), [&](const Result<void>&) { ++told; });
  try {
    loop.poll();
  } catch (const std::runtime_error&) {  // the loop may keep it to itself
  }
  CHECK(told == 1);
  CHECK(watch.waiting() == 0);
}

TEST_CASE("a watch may be destroyed by what it tells") {
  Machine machine;
  SimClock clock;
  Loop loop(clock);
  const Loop::Turn turn(loop);
  auto watch = std::make_unique<EventWatch>(loop);
  watch->when_done(Event(), [&](const Result<void>&) { watch.reset(); });
  watch->when_done(machine.first.record().value(), [](const Result<void>&) {});
  loop.poll();
  CHECK(!watch);
  loop.poll();
}

TEST_CASE("null is no stream to adopt") {
  Machine machine;
  CHECK(machine.gpu.adopt_stream(nullptr).error().code == Code::kInvalidArgument);
}
