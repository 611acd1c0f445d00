// Device tensors between two processes on the machine's own GPUs.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <troupe/runtime/gpu_memory.hpp>
#include <troupe/runtime/gpu_sharing.hpp>

#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

namespace {

constexpr const char* kAddress = "TROUPE_TEST_DEVICE_ADDRESS";
constexpr const char* kWork = "TROUPE_TEST_DEVICE_WORK";
constexpr const char* kOrdinal = "TROUPE_TEST_DEVICE_GPU";
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr Duration kLong = 60s;

/// One of the machine's GPUs with memory of a program's.
struct RealDevice {
  explicit RealDevice(const Gpu& opened)
      : gpu(opened),
        stream(gpu.make_stream().value()),
        pool(gpu),
        pinned(gpu, {.kind = MemoryKind::kPinned}) {}

  /// Bytes that differ from place to place, and from seed to seed.
  Tensor make(std::size_t bytes, unsigned seed) {
    const Buffer host = pinned.allocate(bytes, stream).value();
    for (std::size_t i = 0; i < bytes; ++i)
      host.data()[i] = static_cast<std::byte>(seed + i * 7 + (i >> 8) * 13 + (i >> 20) * 29);
    Tensor tensor = pool.empty(DType::kUInt8, Shape{static_cast<std::int64_t>(bytes)}, stream).value();
    REQUIRE(stream.copy(tensor.data(), host.data(), bytes).ok());
    REQUIRE(end_write(tensor.buffer(), stream).ok());
    REQUIRE(stream.finish(kLong).ok());
    return tensor;
  }
  bool holds(const Tensor& tensor, std::size_t bytes, unsigned seed) {
    if (tensor.bytes() != bytes) return false;
    Buffer host = pinned.allocate(bytes, stream).value();
    if (tensor.device().kind == MemoryKind::kHost) {
      std::memcpy(host.data(), tensor.data(), bytes);
    } else {
      REQUIRE(begin_read(tensor.buffer(), stream).ok());
      REQUIRE(stream.copy(host.data(), tensor.data(), bytes).ok());
      REQUIRE(stream.finish(kLong).ok());
    }
    for (std::size_t i = 0; i < bytes; ++i)
      if (host.data()[i] != static_cast<std::byte>(seed + i * 7 + (i >> 8) * 13 + (i >> 20) * 29))
        return false;
    return true;
  }

  Gpu gpu;
  troupe::Stream stream;
  GpuPool pool;
  GpuPool pinned;
};

std::optional<RealDevice> open_device() {
  auto gpu = Gpu::open(0);
  if (gpu) return std::optional<RealDevice>(std::in_place, *gpu);
  MESSAGE("skipped: ", gpu.error().message);
  return std::nullopt;
}

/// The other process: `ordinal` is its GPU, -1 none.
class OtherProcess {
 public:
  OtherProcess(const std::string& address, const std::string& work, int ordinal) {
    ::setenv(kAddress, address.c_str(), 1);
    ::setenv(kWork, work.c_str(), 1);
    ::setenv(kOrdinal, std::to_string(ordinal).c_str(), 1);
    const char* const arguments[] = {"test_rpc_device", "--no-skip",
                                     "--test-case=device tensors: the other process", nullptr};
    pid_ = ::vfork();
    if (pid_ == 0) {
      ::execv("/proc/self/exe", const_cast<char* const*>(arguments));
      ::_exit(127);
    }
    ::unsetenv(kAddress);
  }
  ~OtherProcess() { kill(); }
  OtherProcess(const OtherProcess&) = delete;
  OtherProcess& operator=(const OtherProcess&) = delete;
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_ = 0;
};

/// How tensors go: see docs/gpu.md.
enum class By : std::uint8_t { kMapping, kFollowing, kStaging };
constexpr By kAllWays[] = {By::kMapping, By::kFollowing, By::kStaging};

EndpointOptions options_with(std::uint64_t id, const std::string& name, std::vector<Gpu> gpus, By by) {
  EndpointOptions options = options_of(id, name);
  options.gpus = std::move(gpus);
  options.default_timeout = kLong;
  options.map_gpu_memory = by == By::kMapping;
  if (by == By::kStaging) options.shared.max_bytes = 0;
  return options;
}

/// This process's endpoint, and the other process's session with it.
struct Near {
  Near(const Gpu& gpu, const std::string& work, int ordinal, By by)
      : side_endpoint(side, world, gpu, by), other(side_endpoint.address, work, ordinal) {
    REQUIRE(until([&] { return side.sessions.size() == 1; }));
    session = side.sessions[0].first;
  }
  bool until(const std::function<bool()>& done) { return world.run_until(done, kLong); }
  template <class R, class... Args>
  Result<R> call(const CallOptions& options, std::string_view method, const Args&... args) {
    auto future = call_async<R>(endpoint(), {session, 5}, method, std::string(method), options, args...);
    REQUIRE(until([&] { return future.ready(); }));
    return future.get();
  }
  Endpoint& endpoint() { return *side.endpoint; }
  /// Until the other side has said that it reaches this one's memory, if it is to.
  void meet(RealDevice& device, By by) {
    if (by != By::kMapping) return;
    const Tensor tensor = device.make(64, 0);
    const RealClock clock;
    const TimePoint deadline = clock.now() + kLong;
    while (endpoint().stats().device_mapped == 0 && clock.now() < deadline)
      REQUIRE(call<Tensor>({}, "echo", tensor).ok());
    CHECK(endpoint().stats().device_mapped > 0);
    REQUIRE(until([&] { return !side.device_ways.empty(); }));
    MESSAGE(side.device_ways[0]);
  }

  contract::Shm world;
  Side side;
  struct Listening {
    Listening(Side& of, contract::Shm& in, const Gpu& gpu, By by) {
      of.endpoint =
          std::make_unique<Endpoint>(in.a, in.make(in.a, "near"), options_with(1, "near", {gpu}, by), of);
      address = of.endpoint->listen("127.0.0.1:0").value();
    }
    std::string address;
  } side_endpoint;
  OtherProcess other;
  SessionId session = 0;
};

int gpu_count() {
  const auto gpus = list_gpus();
  return gpus ? static_cast<int>(gpus->size()) : 0;
}

}  // namespace

TEST_CASE("device tensors: the other process" * doctest::skip()) {
  const char* const address = std::getenv(kAddress);
  if (!address) return;
  const std::string work = std::getenv(kWork);
  const int ordinal = std::atoi(std::getenv(kOrdinal));
  std::vector<Gpu> gpus;
  if (ordinal >= 0) gpus.push_back(Gpu::open(ordinal).value());
  contract::Shm world;
  Side side;
  side.endpoint = std::make_unique<Endpoint>(world.a, world.make(world.a, "far"),
                                             options_with(2, "far", gpus, By::kMapping), side);
  std::vector<Tensor> kept;
  side.handler = [&](InboundCallPtr call) {
    Tensor tensor;
    if (!Codec<Tensor>::decode(call->message().value(0), tensor))
      return call->reply_error({Code::kInvalidArgument, "no tensor"});
    if (call->header().method == fnv1a("where"))
      return call->reply(std::pair<std::int64_t, std::int64_t>(static_cast<int>(tensor.device().kind),
                                                               tensor.device().ordinal));
    if (call->header().method == fnv1a("keep")) {
      kept.push_back(tensor);
      return call->reply_void();
    }
    call->reply(tensor);
  };
  const SessionId session = side.endpoint->connect(address).value();
  std::optional<RealDevice> device;
  std::vector<Future<void>> open;
  Tensor flood;
  if (work == "flood") {
    device.emplace(gpus.at(0));
    flood = device->make(256 * kMiB, 1);
    (void)world.run_until([&] { return !side.device_ways.empty(); }, 10s);
  }
  (void)world.run_until(
      [&] {
        std::erase_if(open, [](const Future<void>& future) { return future.ready(); });
        while (!flood.buffer().empty() && open.size() < 4 && side.closed.empty())
          open.push_back(call_async<void>(*side.endpoint, {session, 5}, "keep", "keep", {}, flood));
        return !side.closed.empty();
      },
      kLong);
}

TEST_CASE("device tensors: between two processes, on one GPU and on two, mapped and staged") {
  auto device = open_device();
  if (!device) return;
  for (int ordinal = 0; ordinal < std::min(gpu_count(), 2); ++ordinal) {
    for (const By by : kAllWays) {
      CAPTURE(ordinal);
      CAPTURE(static_cast<int>(by));
      Near near(device->gpu, "serve", ordinal, by);
      near.meet(*device, by);
      const std::uint64_t staged = near.endpoint().stats().device_staged;
      unsigned seed = 0;
      for (const std::size_t bytes :
           {std::size_t{1}, std::size_t{64}, 65'537 * std::size_t{3}, 96 * kMiB + 3}) {
        CAPTURE(bytes);
        const Tensor tensor = device->make(bytes, ++seed);
        const auto where = near.call<std::pair<std::int64_t, std::int64_t>>({}, "where", tensor);
        REQUIRE_MESSAGE(where.ok(), where.error().to_string());
        CHECK(where->first == static_cast<int>(MemoryKind::kDevice));
        CHECK(where->second == ordinal);
        const auto echo = near.call<Tensor>({}, "echo", tensor);
        REQUIRE_MESSAGE(echo.ok(), echo.error().to_string());
        CHECK(echo->device() == tensor.device());
        CHECK(device->holds(*echo, bytes, seed));
        const Tensor place = device->make(bytes, 200);
        const auto placed = near.call<Tensor>({.into = into(place)}, "echo", tensor);
        REQUIRE_MESSAGE(placed.ok(), placed.error().to_string());
        CHECK(device->holds(place, bytes, seed));
        const Tensor host = Tensor::zeros(DType::kUInt8, tensor.shape());
        REQUIRE(near.call<Tensor>({.into = into(host)}, "echo", tensor).ok());
        CHECK(device->holds(host, bytes, seed));
      }
      CHECK((near.endpoint().stats().device_mapped > 0) == (by == By::kMapping));
      CHECK((near.endpoint().stats().device_staged > staged) == (by != By::kMapping));
      CHECK(device->gpu.check().ok());
    }
  }
}

TEST_CASE("device tensors: a process without a GPU has them in host memory") {
  auto device = open_device();
  if (!device) return;
  Near near(device->gpu, "serve", -1, By::kMapping);
  const Tensor tensor = device->make(5 * kMiB, 4);
  CHECK(near.call<std::pair<std::int64_t, std::int64_t>>({}, "where", tensor).value().first == 0);
  CHECK(device->holds(near.call<Tensor>({}, "echo", tensor).value(), 5 * kMiB, 4));
  const Tensor place = device->make(5 * kMiB, 100);
  REQUIRE(near.call<Tensor>({.into = into(place)}, "echo", tensor).ok());
  CHECK(device->holds(place, 5 * kMiB, 4));
}

TEST_CASE("device tensors: a callee that is killed with copies under way ends its calls, and no context") {
  auto device = open_device();
  if (!device) return;
  for (int ordinal = 0; ordinal < std::min(gpu_count(), 2); ++ordinal) {
    for (const By by : kAllWays) {
      CAPTURE(ordinal);
      CAPTURE(static_cast<int>(by));
      Near near(device->gpu, "serve", ordinal, by);
      near.meet(*device, by);
      Tensor tensor = device->make(256 * kMiB, 1);
      REQUIRE(near.call<Tensor>({}, "echo", tensor).ok());
      std::vector<Future<void>> open;
      for (int i = 0; i < 4; ++i)  // of staged ones no more than pinned memory is kept for
        open.push_back(call_async<void>(near.endpoint(), {near.session, 5}, "keep", "keep", {}, tensor));
      (void)near.world.run_until([] { return false; }, 1ms);
      near.other.kill();
      REQUIRE(near.until([&] {
        return std::ranges::all_of(open, [](const Future<void>& future) { return future.ready(); });
      }));
      for (Future<void>& future : open) {
        const auto ended = future.get();
        if (!ended) CHECK(ended.error().code == Code::kUnavailable);
      }
      CHECK(device->gpu.check().ok());
      CHECK(device->holds(tensor, 256 * kMiB, 1));
      tensor = Tensor();
      CHECK(device->pool.stats().bytes_in_use == 0);
    }
  }
}

TEST_CASE("device tensors: a caller that is killed while its memory is copied leaves ours as it was") {
  auto device = open_device();
  if (!device) return;
  for (int ordinal = 0; ordinal < std::min(gpu_count(), 2); ++ordinal) {
    CAPTURE(ordinal);
    int came = 0;
    int wrong = 0;
    {
      Near near(device->gpu, "flood", ordinal, By::kMapping);
      near.side.handler = [&](InboundCallPtr call) {
        Tensor tensor;
        if (!Codec<Tensor>::decode(call->message().value(0), tensor) || tensor.bytes() != 256 * kMiB) ++wrong;
        if (came++ % 8 == 0 && !device->holds(tensor, 256 * kMiB, 1)) ++wrong;
        call->reply_void();
      };
      REQUIRE(near.until([&] { return came >= 20; }));
      near.other.kill();
      REQUIRE(near.until([&] { return !near.side.closed.empty(); }));
      (void)near.world.run_until([] { return false; }, 50ms);
      CHECK(wrong == 0);
      CHECK(device->gpu.check().ok());
    }
    const Tensor tensor = device->make(kMiB, 9);
    CHECK(device->holds(tensor, kMiB, 9));
  }
}

}  // namespace troupe::rpc::testing
