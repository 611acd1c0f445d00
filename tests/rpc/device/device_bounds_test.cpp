// What device tensors may take of memory that there is little of: they wait for it, and peers are kept from
// taking more.
#include "device_support.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace troupe::rpc::testing {

using contract::Shm;
using contract::Tcp;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::int64_t kLong = 200'000;  // three of them fit into three quarters of a MiB of pinned memory

void little_pinned(EndpointOptions& options) {
  options.max_pinned_bytes = kMiB;
}

/// Until all are answered; devices go on meanwhile.
template <class Pair, class Calls>
void finish(Pair& pair, Calls& calls) {
  REQUIRE(pair.duo.until([&] {
    pair.devices.script->run_all();
    return std::ranges::all_of(calls, [](auto& call) { return call.ready(); });
  }));
}

/// Keeps calls, with their tensors, until they are answered.
struct Keeper {
  std::vector<InboundCallPtr> calls;
  std::vector<Tensor> tensors;
  void keep_at(Side& side) {
    side.handler = [this](InboundCallPtr call) {
      Tensor tensor;
      if (call->message().value_count() == 1)
        REQUIRE(Codec<Tensor>::decode(call->message().value(0), tensor));
      tensors.push_back(std::move(tensor));
      calls.push_back(std::move(call));
    };
  }
  void answer_all() {
    for (auto& call : std::exchange(calls, {})) call->reply_void();
  }
};

}  // namespace

TEST_CASE("device tensors: where pinned memory is used up calls wait for it, in their order") {
  for (const bool shares : {false, true}) {
    CAPTURE(shares);
    DeviceDuo<Shm> pair(true, shares, true, little_pinned);
    // With shared memory the copies are made where the peer maps them.
    pair.devices.script->unreachable = Error{Code::kUnavailable, "not connected"};
    pair.duo.connect();
    pair.duo.settle(50ms);
    std::vector<Tensor> kept;
    keep_at(pair.duo.b, kept);
    pair.devices.script->at_once = false;
    std::vector<Future<void>> calls;
    constexpr int kCalls = 9;
    for (int i = 0; i < kCalls; ++i)
      calls.push_back(
          call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {}, pair.program.counting(kLong, i)));
    CHECK(pair.a().device_use().messages_waiting == kCalls - 3);
    finish(pair, calls);
    REQUIRE(kept.size() == kCalls);
    for (int i = 0; i < kCalls; ++i) {
      const auto answered = calls[static_cast<std::size_t>(i)].get();
      REQUIRE_MESSAGE(answered.ok(), answered.error().to_string());
      CHECK(counts(kept[static_cast<std::size_t>(i)], kLong, i));
    }
    CHECK(pair.a().stats().device_waited == kCalls - 3);
    CHECK(pair.a().device_use().messages_waiting == 0);
    CHECK(pair.a().device_use().pinned_bytes <= kMiB);
  }
}

TEST_CASE("device tensors: who waits for pinned memory ends at its deadline, and by being cancelled") {
  DeviceDuo<Tcp> pair(true, false, true, little_pinned);
  pair.duo.connect();
  std::vector<Tensor> kept;
  keep_at(pair.duo.b, kept);
  pair.devices.script->at_once = false;
  std::vector<Future<void>> first;
  for (int i = 0; i < 3; ++i)
    first.push_back(
        call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {}, pair.program.counting(kLong, i)));
  auto late = call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {.timeout = 50ms},
                               pair.program.counting(kLong, 3));
  Answer& cancelled = pair.duo.answer();
  const auto id =
      start_call(pair.a(), {pair.duo.ab, 5}, "keep", 10s, cancelled, pair.program.counting(kLong, 4));
  CHECK(pair.a().device_use().messages_waiting == 2);
  pair.a().cancel(id);
  CHECK(cancelled.code() == Code::kCancelled);
  REQUIRE(pair.duo.until([&] { return late.ready(); }));
  CHECK(late.get().error().code == Code::kDeadlineExceeded);
  REQUIRE(pair.duo.until([&] { return pair.a().device_use().messages_waiting == 0; }));
  finish(pair, first);
  CHECK(kept.size() == 3);
  // What can never be had is told at once.
  pair.devices.script->at_once = true;
  CHECK(pair.duo.call<void>("keep", pair.program.counting(2'000'000, 0)).error().code ==
        Code::kResourceExhausted);
  CHECK(pair.duo.call<void>("keep", std::vector<Tensor>(6, pair.program.counting(kLong, 0))).error().code ==
        Code::kResourceExhausted);
  kept.clear();
  pair.duo.settle();
  CHECK(pair.program.pool.stats().bytes_in_use == 0);
}

TEST_CASE("device tensors: answers wait for pinned memory, too") {
  DeviceDuo<Shm> pair(true, false, true, {}, little_pinned);
  pair.duo.connect();
  pair.duo.b.handler = [&](InboundCallPtr call) {
    std::int64_t begin = 0;
    REQUIRE(Codec<std::int64_t>::decode(call->message().value(0), begin));
    call->reply(pair.other.counting(kLong, static_cast<int>(begin)));
  };
  pair.devices.script->at_once = false;
  std::vector<Future<Tensor>> calls;
  for (std::int64_t i = 0; i < 8; ++i)
    calls.push_back(call_async<Tensor>(pair.a(), {pair.duo.ab, 5}, "get", "get", {}, i));
  finish(pair, calls);
  for (int i = 0; i < 8; ++i) {
    const auto answer = calls[static_cast<std::size_t>(i)].get();
    REQUIRE_MESSAGE(answer.ok(), answer.error().to_string());
    CHECK(counts(*answer, kLong, i));
  }
  CHECK(pair.b().stats().device_waited > 0);
}

TEST_CASE("device tensors: bytes that stay in a device count for what is on its way to a peer") {
  // What waits for room there is in nobody's way here: it may be more than what may wait of the host's
  // memory.
  const auto little = [](EndpointOptions& options) {
    options.limits.max_bytes_in_flight = options.limits.max_bytes_waiting = kMiB;
  };
  DeviceDuo<Shm> pair(true, true, true, little);
  pair.connect();
  Keeper keeper;
  keeper.keep_at(pair.duo.b);
  std::vector<Future<void>> calls;
  for (int i = 0; i < 10; ++i)
    calls.push_back(
        call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {}, pair.program.counting(400'000, i)));
  REQUIRE(pair.duo.until([&] { return keeper.calls.size() == 2; }));
  pair.duo.settle();
  CHECK(keeper.calls.size() == 2);
  CHECK(pair.a().stats().messages_waited == 8);
  REQUIRE(pair.duo.until([&] {
    keeper.answer_all();
    return std::ranges::all_of(calls, [](auto& call) { return call.ready(); });
  }));
  for (auto& call : calls) CHECK(call.get().ok());
  for (int i = 0; i < 10; ++i) CHECK(counts(keeper.tensors[static_cast<std::size_t>(i)], 400'000, i));
}

TEST_CASE(
    "device tensors: a peer that sends them without end is paused, and goes on when they are answered") {
  const auto little = [](EndpointOptions& options) { options.limits.max_inbound_bytes = kMiB; };
  DeviceDuo<Shm> pair(true, true, true, {}, little);
  pair.connect();
  Keeper keeper;
  keeper.keep_at(pair.duo.b);
  std::vector<Future<void>> calls;
  constexpr std::size_t kCalls = 40;
  const auto call = [&] {
    calls.push_back(call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {},
                                     pair.program.counting(400'000, static_cast<int>(calls.size()))));
  };
  while (calls.size() < kCalls) {
    call();
    pair.duo.settle(1ms);
  }
  pair.duo.settle();
  CHECK(pair.b().stats().pauses >= 1);
  CHECK(keeper.calls.size() < 10);
  REQUIRE(pair.duo.until([&] {
    keeper.answer_all();
    return std::ranges::all_of(calls, [](auto& each) { return each.ready(); });
  }));
  for (auto& each : calls) CHECK(each.get().ok());
  CHECK(keeper.tensors.size() == kCalls);
}

TEST_CASE("device tensors: so is one whose tensors have not come into a device yet") {
  const auto little = [](EndpointOptions& options) { options.limits.max_inbound_bytes = kMiB; };
  DeviceDuo<Shm> pair(true, true, true, {}, little);
  pair.connect();
  std::vector<Tensor> kept;
  keep_at(pair.duo.b, kept);
  REQUIRE(pair.duo.call<void>("keep", pair.program.counting(1000, 0)).ok());
  pair.duo.settle();
  const Tensor tensor = pair.program.counting(400'000, 1);
  pair.devices.script->at_once = false;
  std::vector<Future<void>> calls;
  while (calls.size() < 40) {
    calls.push_back(call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {}, tensor));
    pair.duo.settle(1ms);
  }
  CHECK(pair.b().device_use().messages_arriving < 10);
  CHECK(pair.b().stats().pauses >= 1);
  finish(pair, calls);
  for (auto& each : calls) CHECK(each.get().ok());
}

TEST_CASE("device tensors: who does not copy the answers gets no more of them until then") {
  const auto little = [](EndpointOptions& options) { options.limits.max_bytes_in_flight = kMiB; };
  DeviceDuo<Shm> pair(true, true, true, {}, little);
  pair.connect();
  int begun = 0;
  const Tensor answer = pair.other.counting(400'000, 1);
  pair.duo.b.handler = [&](InboundCallPtr call) {
    ++begun;
    call->reply(answer);
  };
  REQUIRE(pair.duo.call<Tensor>("get").ok());
  pair.duo.settle();
  begun = 0;
  pair.devices.script->at_once = false;
  std::vector<Future<Tensor>> calls;
  while (calls.size() < 20) {
    calls.push_back(call_async<Tensor>(pair.a(), {pair.duo.ab, 5}, "get", "get", {}));
    pair.duo.settle(1ms);
  }
  CHECK(begun == 3);  // the third is more than there may be
  finish(pair, calls);
  for (auto& each : calls) CHECK(each.get().ok());
  CHECK(begun == 20);
}

}  // namespace troupe::rpc::testing
