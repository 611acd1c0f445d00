// The machine's own GPU: memory, order between streams, faults.
#include <troupe/runtime/gpu.hpp>

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <troupe/kernels/row_table.hpp>

#include "places.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr const char* kFaultCase = "a kernel that goes astray (by itself)";

}  // namespace

TEST_CASE("where there is no GPU the reason is told, else each is told of") {
  const auto gpus = list_gpus();
  if (gpus) {
    REQUIRE(!gpus->empty());
    for (const GpuInfo& gpu : *gpus) {
      CHECK(!gpu.name.empty());
      CHECK(gpu.memory_bytes > 0);
      CHECK(gpu.multiprocessors > 0);
    }
    CHECK(Gpu::open(static_cast<std::int32_t>(gpus->size())).error().code == Code::kOutOfRange);
  } else {
    CHECK((gpus.error().code == Code::kUnimplemented || gpus.error().code == Code::kUnavailable));
    CHECK(!gpus.error().message.empty());
    CHECK(Gpu::open(0).error().code == gpus.error().code);
  }
}

TEST_CASE("bytes go to the GPU and back through pinned memory") {
  const auto machine = RealGpu::open();
  if (!machine) return;
  GpuPool pinned(machine->gpu, {.kind = MemoryKind::kPinned, .slab_bytes = kMiB});
  const Buffer from = pinned.allocate(100000, machine->stream).value();
  const Buffer to = pinned.allocate(100000, machine->stream).value();
  const Buffer there = machine->pool->allocate(100000, machine->stream).value();
  CHECK(from.device().kind == MemoryKind::kPinned);
  CHECK(there.device() == Device{MemoryKind::kDevice, 0});
  for (std::size_t i = 0; i < from.size(); ++i) from.data()[i] = static_cast<std::byte>(i * 7);
  REQUIRE(machine->stream.fill(to.data(), 0, to.size()));
  REQUIRE(machine->stream.copy(there.data(), from.data(), from.size()));
  REQUIRE(machine->stream.copy(to.data(), there.data(), there.size()));
  REQUIRE(machine->stream.finish(60s));
  CHECK(std::equal(from.data(), from.data() + from.size(), to.data()));
}

TEST_CASE("a reader on another stream sees what the writer wrote, however long that takes") {
  const auto machine = RealGpu::open();
  if (!machine) return;
  const Stream reader = machine->gpu.make_stream().value();
  GpuPool pinned(machine->gpu, {.kind = MemoryKind::kPinned, .slab_bytes = kMiB});
  const Buffer out = pinned.allocate(1, reader).value();
  for (int round = 1; round <= 50; ++round) {
    const Buffer buffer = machine->pool->allocate(256 * kMiB, machine->stream).value();
    REQUIRE(machine->stream.fill(buffer.data(), 0, buffer.size()));
    REQUIRE(machine->stream.fill(buffer.data(), static_cast<std::uint8_t>(round), buffer.size()));
    REQUIRE(end_write(buffer, machine->stream));
    REQUIRE(begin_read(buffer, reader));
    REQUIRE(reader.copy(out.data(), buffer.data() + buffer.size() - 1, 1));
    REQUIRE(reader.finish(60s));
    REQUIRE(out.data()[0] == static_cast<std::byte>(round));
  }
}

TEST_CASE("more memory than the GPU has is RESOURCE_EXHAUSTED, and work goes on") {
  const auto machine = RealGpu::open();
  if (!machine) return;
  const std::size_t total = list_gpus().value().at(0).memory_bytes;
  const auto none = machine->pool->allocate(total + kMiB, machine->stream);
  REQUIRE(!none);
  CHECK(none.error().code == Code::kResourceExhausted);
  CHECK(none.error().message.find("bytes free") != std::string::npos);
  const Buffer some = machine->pool->allocate(kMiB, machine->stream).value();
  REQUIRE(machine->stream.fill(some.data(), 1, some.size()));
  CHECK(machine->stream.finish(60s).ok());
}

TEST_CASE("the loop tells when a real event has passed") {
  const auto machine = RealGpu::open();
  if (!machine) return;
  RealClock clock;
  Loop loop(clock);
  bool told = false;
  const Buffer buffer = machine->pool->allocate(256 * kMiB, machine->stream).value();
  REQUIRE(machine->stream.fill(buffer.data(), 1, buffer.size()));
  const Event event = machine->stream.record().value();
  EventWatch watch(loop);
  {
    const Loop::Turn turn(loop);
    watch.when_done(event, [&](const Result<void>& outcome) { told = outcome.ok(); });
  }
  CHECK(loop.wait_until([&] { return told; }, clock.now() + 60s));
  CHECK(event.done());
}

TEST_CASE("streams may be used from any thread, and dropped with work on them") {
  const auto machine = RealGpu::open();
  if (!machine) return;
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&machine] {
      for (int i = 0; i < 50; ++i) {
        const Stream stream = machine->gpu.make_stream().value();
        const Buffer buffer = machine->pool->allocate(kMiB, stream).value();
        stream.fill(buffer.data(), 1, buffer.size()).value();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(machine->pool->stats().bytes_in_use == 0);
  CHECK(machine->gpu.check().ok());
}

// The fault is for good in the process that makes it: this one runs in another.
TEST_CASE("a kernel that goes astray (by itself)" * doctest::skip()) {
  const auto machine = RealGpu::open();
  REQUIRE(machine);
  const Buffer buffer = machine->pool->allocate(kMiB, machine->stream).value();
  auto* const out = reinterpret_cast<float*>(buffer.data());
  auto* const indices = reinterpret_cast<std::uint64_t*>(buffer.data() + kMiB / 2);
  REQUIRE(machine->stream.fill(indices, 0x11, 64));  // far from any memory
  const auto launch = kernels::gather_rows(kernels::Place::gpu(machine->stream.native(), 0),
                                           kernels::Element::kFloat32, out, 4, indices, 1, 4, out);
  REQUIRE(machine->stream.launched(launch.kernel, launch.error));
  const auto finished = machine->stream.finish(60s);
  REQUIRE(!finished);
  CHECK(finished.error().code == Code::kInternal);
  CHECK(finished.error().message.find("kernel gather_rows") != std::string::npos);
  CHECK(machine->pool->allocate(1, machine->stream).error().message == finished.error().message);
  std::_Exit(finished.error().message.find("kernel gather_rows") == std::string::npos ? 1 : 0);
}

TEST_CASE("a kernel that goes astray is told with its name to whoever waits, and the process lives") {
  if (!RealGpu::open()) return;
  std::string self(4096, '\0');
  const auto length = ::readlink("/proc/self/exe", self.data(), self.size());
  REQUIRE(length > 0);
  self.resize(static_cast<std::size_t>(length));
  CHECK(std::system(("'" + self + "' --no-skip --test-case='" + kFaultCase + "'").c_str()) == 0);
}
