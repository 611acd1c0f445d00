// Slabs of peers: kept mapped, up to a bound, given back, or not to be mapped at all; and messages that
// nobody wants any more while their tensors are on their way.
#include "device_support.hpp"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace troupe::rpc::testing {

using contract::Shm;

namespace {

/// A tensor in a slab of its own.
struct OwnSlab {
  OwnSlab(Program& program, std::int64_t count, int begin)
      : pool(std::make_unique<GpuPool>(program.gpu, GpuPoolOptions{.slab_bytes = 4096})),
        tensor(pool->empty(DType::kUInt8, Shape{count}, program.stream).value()) {
    for (std::int64_t i = 0; i < count; ++i)
      tensor.data()[i] = static_cast<std::byte>(static_cast<std::int64_t>(begin) + i);
    REQUIRE(end_write(tensor.buffer(), program.stream).ok());
  }
  std::unique_ptr<GpuPool> pool;
  Tensor tensor;
};

}  // namespace

TEST_CASE("device tensors: of a peer's slabs so many stay mapped, those that were used last") {
  DeviceDuo<Shm> pair;
  pair.connect();
  std::vector<Tensor> kept;
  keep_at(pair.duo.b, kept);
  auto& script = *pair.devices.script;
  const OwnSlab often(pair.program, 100, 1);
  std::vector<OwnSlab> slabs;
  constexpr int kSlabs = 300;
  for (int i = 0; i < kSlabs; ++i) {
    slabs.emplace_back(pair.program, 64, i);
    REQUIRE(pair.duo.call<void>("keep", slabs.back().tensor).ok());
    CHECK(counts(kept.back(), 64, i));
    if (i % 100 == 0) REQUIRE(pair.duo.call<void>("keep", often.tensor).ok());
    kept.clear();
  }
  CHECK(pair.b().device_use().slabs_mapped == 256);
  const auto closed_by_now = [&] {
    const std::lock_guard lock(script.shared);
    return script.closed;
  };
  REQUIRE(pair.duo.until([&] { return closed_by_now() >= kSlabs + 1 - 256; }));
  const int opened = script.opened;
  REQUIRE(pair.duo.call<void>("keep", often.tensor).ok());
  REQUIRE(pair.duo.call<void>("keep", slabs.back().tensor).ok());
  CHECK(script.opened == opened);
  REQUIRE(pair.duo.call<void>("keep", slabs.front().tensor).ok());
  CHECK(script.opened == opened + 1);
}

TEST_CASE("device tensors: a slab that its owner gives back to the device is unmapped by its peers") {
  DeviceDuo<Shm> pair;
  pair.connect();
  std::vector<Tensor> kept;
  keep_at(pair.duo.b, kept);
  auto& script = *pair.devices.script;
  {
    const OwnSlab gone(pair.program, 100, 1);
    const OwnSlab other(pair.program, 100, 2);
    REQUIRE(pair.duo.call<void>("keep", gone.tensor).ok());
    REQUIRE(pair.duo.call<void>("keep", other.tensor).ok());
    pair.duo.settle();
    CHECK(pair.b().device_use().slabs_mapped == 2);
  }
  const OwnSlab stays(pair.program, 100, 3);  // where one of them was
  const int closed = script.closed;
  CHECK(pair.program.gpu.release_idle() > 0);
  REQUIRE(pair.duo.until([&] {
    const std::lock_guard lock(script.shared);
    return script.closed == closed + 1;
  }));
  CHECK(pair.b().device_use().slabs_mapped == 1);
  REQUIRE(pair.duo.call<void>("keep", stays.tensor).ok());
  CHECK(counts(kept.back(), 100, 3));
}

TEST_CASE("device tensors: a slab that cannot be mapped is staged, and said once; the link goes on") {
  DeviceDuo<Shm> pair;
  pair.connect();
  std::vector<Tensor> kept;
  pair.duo.b.handler = [&](InboundCallPtr call) {
    Tensor tensor;
    REQUIRE(Codec<Tensor>::decode(call->message().value(0), tensor));
    kept.push_back(tensor);
    call->reply(tensor);
  };
  {
    const std::lock_guard lock(pair.devices.script->shared);
    pair.devices.script->unreachable = Error{Code::kUnavailable, "no room for one more mapping"};
  }
  std::vector<Future<Tensor>> calls;
  for (int i = 0; i < 3; ++i)
    calls.push_back(call_async<Tensor>(pair.a(), {pair.duo.ab, 5}, "echo", "echo", {},
                                       pair.program.counting(100'000, i)));
  for (int i = 0; i < 3; ++i) {
    Future<Tensor>& call = calls[static_cast<std::size_t>(i)];
    REQUIRE(pair.duo.until([&] { return call.ready(); }));
    const auto answer = call.get();
    REQUIRE_MESSAGE(answer.ok(), answer.error().to_string());
    CHECK(counts(*answer, 100'000, i));
    CHECK(answer->device() == Device{MemoryKind::kDevice, 0});
    CHECK(counts(kept.at(static_cast<std::size_t>(i)), 100'000, i));
    CHECK(kept[static_cast<std::size_t>(i)].device() == Device{MemoryKind::kDevice, 1});
  }
  CHECK(pair.b().stats().device_fetched == 3);
  for (const Side* side : {&pair.duo.a, &pair.duo.b}) {
    CHECK(side->closed.empty());
    REQUIRE(side->device_ways.size() == 2);
    CHECK(side->device_ways[1].find("from now on staged") != std::string::npos);
    CHECK(side->device_ways[1].find("no room for one more mapping") != std::string::npos);
  }
  // From then on they are sent so.
  pair.duo.settle();
  const auto staged = pair.a().stats().device_staged;
  REQUIRE(pair.duo.call<Tensor>("echo", pair.program.counting(100'000, 9)).ok());
  CHECK(pair.a().stats().device_staged == staged + 1);
  CHECK(pair.b().stats().device_fetched == 3);
  CHECK(pair.duo.a.device_ways.size() == 2);
  kept.clear();
  calls.clear();
  pair.duo.settle();
  CHECK(pair.program.pool.stats().bytes_in_use == 0);
}

TEST_CASE("device tensors: a request that is cancelled while its tensors are on their way is not begun") {
  for (const bool follows : {false, true}) {
    CAPTURE(follows);
    DeviceDuo<Shm> pair;
    if (follows) pair.devices.script->unreachable = Error{Code::kUnavailable, "not connected"};
    pair.connect();
    std::vector<Tensor> kept;
    keep_at(pair.duo.b, kept);
    REQUIRE(pair.duo.call<void>("keep", pair.program.counting(3'000'000, 0)).ok());
    kept.clear();
    pair.duo.settle();
    for (const bool cancels : {true, false}) {
      CAPTURE(cancels);
      pair.devices.script->at_once = true;
      Answer& answer = pair.duo.answer();
      Tensor tensor = pair.program.counting(3'000'000, 1);
      pair.devices.script->at_once = false;
      const auto id = start_call(pair.a(), {pair.duo.ab, 5}, "keep", cancels ? 90s : 100ms, answer, tensor);
      REQUIRE(pair.duo.until([&] { return pair.b().device_use().messages_arriving == 1; }));
      tensor = Tensor();
      if (cancels) pair.a().cancel(id);
      REQUIRE(pair.duo.until([&] { return answer.count == 1; }));
      CHECK(answer.code() == (cancels ? Code::kCancelled : Code::kDeadlineExceeded));
      REQUIRE(pair.duo.until([&] { return pair.b().stats().device_given_up == (cancels ? 1 : 2); }));
      // Nothing goes elsewhere while the copy is under way.
      if (!follows) {
        pair.duo.settle();
        CHECK(pair.program.pool.stats().bytes_in_use > 0);
        CHECK(pair.b().device_use().messages_arriving == 1);
      } else {
        REQUIRE(pair.duo.until([&] { return pair.b().device_use().messages_arriving == 0; }));
      }
      REQUIRE(pair.duo.until([&] {
        pair.devices.script->run_all();
        return pair.b().device_use().messages_arriving == 0 && pair.program.pool.stats().bytes_in_use == 0;
      }));
      CHECK(kept.empty());
    }
    pair.devices.script->at_once = true;
    REQUIRE(pair.duo.call<void>("keep", pair.program.counting(3'000'000, 2)).ok());
    CHECK(counts(kept.at(0), 3'000'000, 2));
  }
}

TEST_CASE("device tensors: memory that an answer was to lie in stays taken until the device has passed") {
  DeviceDuo<Shm> pair;
  pair.connect();
  const Tensor source = pair.other.counting(100'000, 4);
  pair.duo.b.handler = [&](InboundCallPtr call) { call->reply(source); };
  const Tensor place = pair.program.counting(100'000, 0);
  REQUIRE(pair.duo.call_with<Tensor>({.into = into(place)}, "get").ok());
  pair.devices.script->at_once = false;
  auto late =
      call_async<Tensor>(pair.a(), {pair.duo.ab, 5}, "get", "get", {.timeout = 200ms, .into = into(place)});
  REQUIRE(pair.duo.until([&] { return pair.a().device_use().messages_arriving == 1; }));
  REQUIRE(pair.duo.until([&] { return late.ready(); }));
  CHECK(late.get().error().code == Code::kDeadlineExceeded);
  const auto refused = pair.duo.call_with<Tensor>({.into = into(place)}, "get");
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == Code::kInvalidArgument);
  REQUIRE(pair.duo.until([&] {
    pair.devices.script->run_all();
    return pair.a().device_use().messages_arriving == 0;
  }));
  pair.devices.script->at_once = true;
  CHECK(pair.duo.call_with<Tensor>({.into = into(place)}, "get").ok());
}

TEST_CASE("device tensors: a call to this node receives into a device whatever the answer lies in") {
  const auto both = [](EndpointOptions& options) { (void)options; };
  DeviceDuo<Shm> pair(true, true, true, both);
  struct From {
    const char* name;
    Tensor tensor;
  };
  const From all[] = {{"the same GPU", pair.program.counting(1000, 1)},
                      {"another GPU", pair.other.counting(1000, 1)},
                      {"the host", pair.program.counting(1000, 1)}};
  for (const From& from : all) {
    CAPTURE(from.name);
    Tensor answer = from.tensor;
    if (std::string(from.name) == "the host") {
      answer = Tensor::zeros(DType::kUInt8, Shape{1000});
      std::memcpy(answer.data(), from.tensor.data(), 1000);
    }
    pair.duo.a.handler = [&](InboundCallPtr call) { call->reply(answer); };
    const Tensor place = pair.program.counting(1000, 100);
    auto got = call_async<Tensor>(pair.a(), {kLocal, 5}, "get", "get", {.into = into(place)});
    REQUIRE(pair.duo.until([&] { return got.ready(); }));
    const auto received = got.get();
    REQUIRE_MESSAGE(received.ok(), received.error().to_string());
    CHECK(received->data() == place.data());
    CHECK(counts(place, 1000, 1));
  }
}

}  // namespace troupe::rpc::testing
