// Pools, streams and events on a driver whose streams go on when a test says so.
#include <troupe/runtime/gpu_memory.hpp>

#include <array>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "scripted_driver.hpp"
#include "support/seed.hpp"

using namespace troupe;
using troupe::test::ScriptedDriver;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

struct Machine {
  std::shared_ptr<ScriptedDriver::Script> script = std::make_shared<ScriptedDriver::Script>();
  Gpu gpu{std::make_unique<ScriptedDriver>(script)};
  Stream first = gpu.make_stream().value();
  Stream second = gpu.make_stream().value();
};

}  // namespace

TEST_CASE("memory that a stream has let go it has again at once; another stream gets other memory") {
  Machine machine;
  GpuPool pool(machine.gpu, {.slab_bytes = kMiB});
  std::byte* const at = pool.allocate(1000, machine.first).value().data();
  CHECK(pool.allocate(1000, machine.first).value().data() == at);
  CHECK(pool.allocate(1000, machine.second).value().data() != at);
  CHECK(pool.stats().waits == 0);
  machine.script->run_all();
  CHECK(pool.allocate(1000, machine.second).value().data() == at);
  CHECK(pool.stats().bytes_in_use == 0);
  CHECK(pool.stats().peak_bytes == 1024);
  CHECK(machine.script->allocations == 1);
}

TEST_CASE("a buffer that another stream reads is given to nobody before that stream has passed") {
  Machine machine;
  GpuPool pool(machine.gpu, {.slab_bytes = kMiB});
  std::byte* at = nullptr;
  {
    const Buffer buffer = pool.allocate(1000, machine.first).value();
    at = buffer.data();
    REQUIRE(end_write(buffer, machine.first));
    REQUIRE(begin_read(buffer, machine.second));
  }
  // The allocating stream would be right about its own work, but not about the other's.
  CHECK(pool.allocate(1000, machine.first).value().data() != at);
  machine.script->run_all();
  CHECK(pool.allocate(1000, machine.first).value().data() == at);
}

TEST_CASE("a reader comes after the writer, and a writer after the readers") {
  Machine machine;
  GpuPool pool(machine.gpu, {.slab_bytes = kMiB});
  const Buffer buffer = pool.allocate(4, machine.first).value();
  std::array<std::uint8_t, 4> seen{};
  REQUIRE(machine.first.fill(buffer.data(), 1, 4));
  REQUIRE(end_write(buffer, machine.first));
  CHECK(!readable_after(buffer).done());
  REQUIRE(begin_read(buffer, machine.second));
  REQUIRE(machine.second.copy(seen.data(), buffer.data(), 4));
  REQUIRE(begin_write(buffer, machine.first));
  REQUIRE(machine.first.fill(buffer.data(), 2, 4));

  auto& queues = machine.script->queues;
  ScriptedDriver::Script::run(*queues[1]);
  CHECK(seen[0] == 0);  // waits for the writer
  ScriptedDriver::Script::run(*queues[0]);
  CHECK(readable_after(buffer).done());
  CHECK(buffer.data()[0] == std::byte{1});  // the second write waits for the reader
  machine.script->run_all();
  CHECK(seen[0] == 1);
  CHECK(buffer.data()[0] == std::byte{2});
}

TEST_CASE("at the limit a stream is made to wait for another, and only then is memory exhausted") {
  Machine machine;
  GpuPool pool(machine.gpu, {.limit_bytes = kMiB, .slab_bytes = kMiB});
  std::byte* at = nullptr;
  {
    const Buffer buffer = pool.allocate(kMiB, machine.first).value();
    at = buffer.data();
    const auto none = pool.allocate(1, machine.second);
    REQUIRE(!none);
    CHECK(none.error().code == Code::kResourceExhausted);
    REQUIRE(machine.first.fill(at, 7, 1));
  }
  const Buffer taken = pool.allocate(kMiB, machine.second).value();
  CHECK(taken.data() == at);
  CHECK(pool.stats().waits == 1);
  REQUIRE(machine.second.fill(at, 8, 1));
  ScriptedDriver::Script::run(*machine.script->queues[1]);
  CHECK(at[0] != std::byte{8});  // not before the first has done with it
  machine.script->run_all();
  CHECK(at[0] == std::byte{8});
}

TEST_CASE("a device without memory is RESOURCE_EXHAUSTED, and smaller sizes go on") {
  Machine machine;
  machine.script->memory_bytes = 2 * kMiB;
  GpuPool pool(machine.gpu, {.slab_bytes = 2 * kMiB});
  const auto large = pool.allocate(3 * kMiB, machine.first);
  REQUIRE(!large);
  CHECK(large.error().code == Code::kResourceExhausted);
  const auto absurd = pool.allocate(~std::size_t{0}, machine.first);
  REQUIRE(!absurd);
  CHECK(absurd.error().code == Code::kResourceExhausted);
  CHECK(pool.empty(DType::kFloat32, Shape{std::int64_t{1} << 40, std::int64_t{1} << 40}, machine.first)
            .error()
            .code == Code::kInvalidArgument);
  CHECK(pool.allocate(kMiB, machine.first).ok());
  CHECK(machine.gpu.check().ok());
}

TEST_CASE("streams, events and slabs outlive those who made them, and slabs are used again") {
  auto machine = std::make_unique<Machine>();
  const auto script = machine->script;
  Buffer left;
  Event event;
  {
    GpuPool pool(machine->gpu, {.slab_bytes = kMiB});
    left = pool.allocate(100, machine->first).value();
    event = machine->first.record().value();
  }
  {
    GpuPool another(machine->gpu, {.slab_bytes = kMiB});
    CHECK(another.allocate(1, machine->second).value().data() != left.data());
  }
  left = Buffer();
  CHECK(machine->gpu.release_idle() == 0);  // streams are still at work in both
  script->run_all();
  CHECK(machine->gpu.release_idle() == 2 * kMiB);
  CHECK(script->freed.size() == 2);
  machine.reset();
  CHECK(event.done());
  event = Event();
  CHECK(script->streams == 0);
  CHECK(script->events == 0);
}

TEST_CASE("nothing is ever in the hands of two, whatever comes and goes") {
  Machine machine;
  GpuPool pool(machine.gpu, {.limit_bytes = 16 * kMiB, .slab_bytes = kMiB});
  std::mt19937_64 random(test::test_seed());
  std::vector<std::pair<Buffer, std::uint8_t>> held;
  std::size_t bytes = 0;
  for (int i = 0; i < 20000; ++i) {
    const Stream& stream = random() % 2 == 0 ? machine.first : machine.second;
    if (random() % 2 == 0 || held.empty()) {
      auto buffer = pool.allocate(1 + random() % (random() % 8 == 0 ? 3 * kMiB : 5000), stream);
      if (!buffer) continue;  // the limit
      const auto mark = static_cast<std::uint8_t>(random());
      REQUIRE(stream.fill(buffer->data(), mark, buffer->size()));
      REQUIRE(end_write(*buffer, stream));
      bytes += (buffer->size() + 511) / 512 * 512;
      held.emplace_back(*std::move(buffer), mark);
    } else {
      auto& last = held[random() % held.size()];
      std::swap(last, held.back());
      const Buffer buffer = std::move(held.back().first);
      const std::uint8_t mark = held.back().second;
      held.pop_back();
      machine.script->run_all();
      REQUIRE(buffer.data()[0] == std::byte{mark});
      REQUIRE(buffer.data()[buffer.size() - 1] == std::byte{mark});
      bytes -= (buffer.size() + 511) / 512 * 512;
    }
    REQUIRE(pool.stats().bytes_in_use == bytes);
    REQUIRE(pool.stats().bytes_reserved <= 16 * kMiB);
  }
  held.clear();
  machine.script->run_all();
  // Each slab, of a MiB to three, is one piece again.
  std::vector<Buffer> whole;
  const std::size_t reserved = pool.stats().bytes_reserved;
  while (auto buffer = pool.allocate(kMiB, machine.first)) {
    if (pool.stats().bytes_reserved > reserved) break;
    whole.push_back(*std::move(buffer));
  }
  CHECK(whole.size() * 3 * kMiB >= reserved);
  CHECK(whole.size() >= 4);
}

TEST_CASE("what was lent goes back when the streams that used it have passed") {
  Machine machine;
  std::array<std::byte, 64> memory{};
  int released = 0;
  {
    const Buffer buffer =
        adopt_gpu_memory(machine.gpu, memory.data(), memory.size(), machine.gpu.device(), machine.first, [&] {
          ++released;
        }).value();
    REQUIRE(begin_read(buffer, machine.second));
  }
  CHECK(machine.gpu.release_idle() == 0);
  CHECK(released == 0);
  ScriptedDriver::Script::run(*machine.script->queues[0]);
  machine.gpu.release_idle();
  CHECK(released == 0);
  machine.script->run_all();
  machine.gpu.release_idle();
  CHECK(released == 1);
}
