// Device tensors whose devices take their time, fail, or are left by the other side.
#include "device_support.hpp"

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <troupe/rpc/stream.hpp>

namespace troupe::rpc::testing {

using contract::Shm;

TEST_CASE("device tensors: a peer that maps the host's memory follows the copy to it step by step") {
  DeviceDuo<Shm> pair;
  pair.devices.script->unreachable = Error{Code::kUnavailable, "the devices are not connected"};
  pair.connect();
  std::vector<Tensor> kept;
  keep_at(pair.duo.b, kept);
  constexpr std::int64_t kCount = 20'000'000;
  const Tensor tensor = pair.program.counting(kCount, 3);
  REQUIRE(pair.duo.call<void>("keep", tensor).ok());  // memory is there
  kept.clear();
  pair.duo.settle();
  pair.devices.script->at_once = false;
  auto call = call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {}, tensor);
  pair.duo.settle();
  // Of the streams one has work, step by step; as it goes on, the receiver's gets some, too.
  const auto with_work = [&] {
    std::size_t count = 0;
    for (const auto* queue : pair.devices.script->queues) count += queue->empty() ? 0 : 1;
    return count;
  };
  REQUIRE(with_work() == 1);
  int steps = 0;
  std::size_t most = 0;
  while (with_work() > 0 && !call.ready()) {
    for (auto* queue : pair.devices.script->queues) {
      if (queue->empty() || !queue->front()()) continue;
      queue->pop_front();
      break;  // the sender's comes first
    }
    ++steps;
    pair.duo.settle(1ms);
    most = std::max(most, with_work());
  }
  REQUIRE(pair.duo.until([&] {
    pair.devices.script->run_all();
    return call.ready();
  }));
  REQUIRE(call.get().ok());
  CHECK(counts(kept.at(0), kCount, 3));
  CHECK(most == 2);
  CHECK(steps > 8);
  CHECK(pair.a().stats().device_staged == 2);
}

TEST_CASE("device tensors: the sender waits for who writes them, and other calls go on meanwhile") {
  for (const bool shares : {true, false}) {
    CAPTURE(shares);
    DeviceDuo<Shm> pair(true, shares);
    pair.duo.connect();
    if (shares) REQUIRE(pair.duo.until([&] { return !pair.duo.b.device_ways.empty(); }));
    pair.duo.settle();
    std::vector<Tensor> kept;
    const auto keep = [&](InboundCallPtr call) {
      if (call->message().value_count() != 1) return call->reply(std::int64_t{3});
      Tensor tensor;
      REQUIRE(Codec<Tensor>::decode(call->message().value(0), tensor));
      kept.push_back(tensor);
      call->reply_void();
    };
    pair.duo.b.handler = keep;
    // Settled: what this needs is there.
    REQUIRE(pair.duo.call<void>("keep", pair.program.counting(5000, 0)).ok());
    pair.devices.script->at_once = false;
    Tensor late = pair.program.pool.empty(DType::kUInt8, Shape{5000}, pair.program.stream).value();
    REQUIRE(pair.program.stream.fill(late.data(), 8, late.bytes()).ok());
    REQUIRE(end_write(late.buffer(), pair.program.stream).ok());
    auto call = call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {}, late);
    for (int i = 0; i < 3; ++i)
      CHECK(pair.duo.call<std::int64_t>("add", std::int64_t{1}, std::int64_t{2}).value() == 3);
    CHECK(kept.size() == 1);
    REQUIRE(pair.duo.until([&] {
      pair.devices.script->run_all();
      return call.ready();
    }));
    REQUIRE(call.get().ok());
    CHECK(kept.at(1).data()[4999] == std::byte{8});
  }
}

TEST_CASE("device tensors: a stream in the options comes before the arguments are read") {
  for (const bool shares : {true, false}) {
    CAPTURE(shares);
    DeviceDuo<Shm> pair(true, shares);
    pair.duo.connect();
    pair.duo.settle(100ms);
    std::vector<Tensor> kept;
    keep_at(pair.duo.b, kept);
    const auto stream = std::make_shared<const troupe::Stream>(pair.program.gpu.make_stream().value());
    const Tensor tensor = pair.program.counting(5000, 0);
    pair.devices.script->at_once = false;
    REQUIRE(stream->fill(tensor.data(), 9, tensor.bytes()).ok());  // and nobody has said so
    auto call = call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {.stream = stream}, tensor);
    pair.duo.settle();
    CHECK(kept.empty());
    REQUIRE(pair.duo.until([&] {
      pair.devices.script->run_all();
      return call.ready();
    }));
    CHECK(kept.at(0).data()[0] == std::byte{9});
  }
}

TEST_CASE(
    "device tensors: items of a stream come into the reader's device, in order, whatever they wait for") {
  struct Writer {
    std::vector<StreamWriter<Tensor>> out;
    static void methods(Methods<Writer>& methods) {
      methods.add("open", [](Writer& self, StreamWriter<Tensor> out) { self.out.push_back(std::move(out)); });
    }
  } writer;
  Methods<Writer> methods;
  Writer::methods(methods);
  const auto table = methods.table();
  DeviceDuo<Shm> pair;
  pair.connect();
  pair.duo.b.handler = [&](InboundCallPtr call) { table->invoke(&writer, std::move(call)); };
  auto reader = open_stream<Tensor>(pair.a(), {pair.duo.ab, 5}, "open", "open", {});
  REQUIRE(pair.duo.until([&] { return writer.out.size() == 1; }));
  pair.devices.script->at_once = false;
  constexpr int kItems = 20;
  for (int i = 0; i < kItems; ++i)
    REQUIRE(writer.out[0].write(pair.other.counting(i % 2 ? 64 : 90'000, i)).ok());
  writer.out[0].end();
  for (int i = 0; i <= kItems; ++i) {
    CAPTURE(i);
    auto next = reader.next_async(30s);
    REQUIRE(pair.duo.until([&] {
      pair.devices.script->run_all();
      return next.ready();
    }));
    const auto item = next.get();
    REQUIRE_MESSAGE(item.ok(), item.error().to_string());
    REQUIRE(item->has_value() == (i < kItems));
    if (i == kItems) break;
    CHECK((*item)->device() == Device{MemoryKind::kDevice, 0});
    CHECK(counts(**item, i % 2 ? 64 : 90'000, i));
  }
  CHECK(pair.b().stats().device_staged == kItems);
}

TEST_CASE("device tensors: a device that fails ends the calls that wait for it, on both sides") {
  int pair_count = 0;
  for (const bool at_sender : {true, false, true}) {
    const bool follows = pair_count++ == 2;
    CAPTURE(at_sender);
    CAPTURE(follows);
    DeviceDuo<Shm> pair;
    if (follows) pair.devices.script->unreachable = Error{Code::kUnavailable, "not connected"};
    pair.connect();
    std::vector<Tensor> kept;
    keep_at(pair.duo.b, kept);
    REQUIRE(pair.duo.call<void>("keep", pair.program.counting(100'000, 0)).ok());
    const Tensor tensor = pair.program.counting(100'000, 1);
    pair.devices.script->at_once = false;
    if (at_sender) {
      REQUIRE(pair.program.stream.fill(tensor.data(), 1, 100'000).ok());
      REQUIRE(end_write(tensor.buffer(), pair.program.stream).ok());
    }
    auto call = call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {}, tensor);
    pair.duo.settle();
    CHECK_FALSE(call.ready());
    pair.devices.script->broken = Error{Code::kInternal, "an address that is not there"};
    REQUIRE(pair.duo.until([&] { return call.ready(); }));
    const Error failed = call.get().error();
    CHECK(failed.code == Code::kInternal);
    if (!follows) CHECK(failed.message.find("an address that is not there") != std::string::npos);
    CHECK(kept.size() == 1);
  }
}

TEST_CASE("device tensors: a peer that goes in the middle of a copy costs neither side memory") {
  for (const bool follows : {false, true})
    for (const bool sender_goes : {true, false}) {
      CAPTURE(sender_goes);
      CAPTURE(follows);
      DeviceDuo<Shm> pair;
      if (follows) pair.devices.script->unreachable = Error{Code::kUnavailable, "not connected"};
      pair.connect();
      std::vector<Tensor> kept;
      keep_at(pair.duo.b, kept);
      REQUIRE(pair.duo.call<void>("keep", pair.program.counting(100'000, 0)).ok());
      pair.duo.settle();
      kept.clear();
      Tensor tensor = pair.program.counting(100'000, 1);
      pair.devices.script->at_once = false;
      auto call = call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {}, tensor);
      pair.duo.settle();  // the copy has been given to the receiver's stream
      CHECK_FALSE(call.ready());
      (sender_goes ? pair.a() : pair.b())
          .close(sender_goes ? pair.duo.ab : pair.duo.ba, {Code::kUnavailable, "it has gone"});
      REQUIRE(pair.duo.until([&] { return call.ready(); }));
      CHECK(call.get().error().code == Code::kUnavailable);
      REQUIRE(pair.duo.until([&] { return pair.duo.a.closed.size() + pair.duo.b.closed.size() == 1; }));
      pair.devices.script->run_all();
      pair.devices.script->at_once = true;
      pair.duo.settle();
      CHECK(kept.empty());
      tensor = Tensor();
      // The sender cannot know that the receiver has heard of the end, and keeps it for a while.
      REQUIRE(pair.duo.until([&] { return pair.program.pool.stats().bytes_in_use == 0; }));
      // They meet again, and go on.
      pair.duo.ab = pair.a().connect(pair.duo.address).value();
      REQUIRE(pair.duo.until([&] { return pair.duo.a.device_ways.size() == 2; }));
      REQUIRE(pair.duo.call<void>("keep", pair.program.counting(64, 3)).ok());
      CHECK(counts(kept.at(0), 64, 3));
      // What was mapped of the first is not any more: its probes and its slab, of both sides.
      if (!follows)
        REQUIRE(pair.duo.until([&] {
          const std::lock_guard lock(pair.devices.script->shared);
          return pair.devices.script->closed >= 3;
        }));
    }
}

TEST_CASE(
    "device tensors: a side that maps no device memory, and gives none to be mapped, meets others all the "
    "same") {
  DeviceDuo<Shm> pair(true, true, false);
  pair.connect();
  CHECK(pair.duo.a.device_ways[0].find("map_gpu_memory is off") != std::string::npos);
  const auto answer = pair.duo.call<Tensor>("tensor", pair.program.counting(100'000, 7));
  REQUIRE_MESSAGE(answer.ok(), answer.error().to_string());
  CHECK(counts(*answer, 100'000, 7));
  CHECK(pair.a().stats().device_staged == 1);
  CHECK(pair.b().stats().device_staged == 1);
  CHECK(pair.devices.script->opened == 0);
  CHECK(pair.duo.a.closed.empty());
}

TEST_CASE("device tensors: memory of which nobody keeps account stays until the device has read it") {
  for (const bool shares : {true, false}) {
    CAPTURE(shares);
    DeviceDuo<Shm> pair(true, shares);
    pair.duo.connect();
    pair.duo.settle(100ms);
    std::vector<Tensor> kept;
    keep_at(pair.duo.b, kept);
    const Tensor lies = pair.program.counting(1000, 4);
    int released = 0;
    pair.devices.script->at_once = false;
    std::optional<Tensor> lent(std::in_place, DType::kUInt8, Shape{1000},
                               Buffer::adopt(lies.data(), 1000, lies.device(), [&] { ++released; }));
    auto call = call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {}, *lent);
    lent.reset();
    pair.duo.settle();
    CHECK(released == 0);
    REQUIRE(pair.duo.until([&] {
      pair.devices.script->run_all();
      return call.ready();
    }));
    REQUIRE(call.get().ok());
    CHECK(counts(kept.at(0), 1000, 4));
    CHECK(released == 1);
  }
}

TEST_CASE("device tensors: one whose writer takes long holds up no other") {
  DeviceDuo<Shm> pair(true, false);
  pair.duo.connect();
  std::vector<Tensor> kept;
  keep_at(pair.duo.b, kept);
  REQUIRE(pair.duo.call<void>("keep", pair.program.counting(1000, 0)).ok());
  const Tensor ready = pair.program.counting(1000, 2);
  const Tensor late = pair.program.counting(1000, 3);
  pair.devices.script->at_once = false;
  REQUIRE(pair.program.stream.fill(late.data(), 9, late.bytes()).ok());
  REQUIRE(end_write(late.buffer(), pair.program.stream).ok());
  auto first = call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {}, late);
  auto second = call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {}, ready);
  // All streams but the program's, which was made first.
  REQUIRE(pair.duo.until([&] {
    auto& queues = pair.devices.script->queues;
    for (std::size_t i = 1; i < queues.size(); ++i) ScriptedDriver::Script::run(*queues[i]);
    return second.ready();
  }));
  CHECK(second.get().ok());
  CHECK_FALSE(first.ready());
  REQUIRE(pair.duo.until([&] {
    pair.devices.script->run_all();
    return first.ready();
  }));
  CHECK(first.get().ok());
  REQUIRE(kept.size() == 3);
  CHECK(counts(kept[1], 1000, 2));
  CHECK(kept[2].data()[0] == std::byte{9});
}

namespace {

/// Lets all streams go on but the program's, which was made first.
template <class Pair>
bool without_the_program(Pair& pair, const std::function<bool()>& done) {
  return pair.duo.until([&] {
    auto& queues = pair.devices.script->queues;
    for (std::size_t i = 1; i < queues.size(); ++i) ScriptedDriver::Script::run(*queues[i]);
    return done();
  });
}

}  // namespace

TEST_CASE("device tensors: nor does one of another library's memory, on the way to who maps ours") {
  DeviceDuo<Shm> pair;
  pair.connect();
  std::vector<Tensor> kept;
  keep_at(pair.duo.b, kept);
  REQUIRE(pair.duo.call<void>("keep", pair.program.counting(1000, 0)).ok());
  const auto lend = [&](const Tensor& lies) {
    return Tensor(
        DType::kUInt8, lies.shape(),
        adopt_gpu_memory(pair.program.gpu, lies.data(), lies.bytes(), lies.device(), pair.program.stream, [] {
        }).value());
  };
  const Tensor ready_at = pair.program.counting(1000, 2), late_at = pair.program.counting(1000, 3);
  const Tensor ready = lend(ready_at);
  pair.devices.script->at_once = false;
  REQUIRE(pair.program.stream.fill(late_at.data(), 9, late_at.bytes()).ok());
  const Tensor late = lend(late_at);
  auto first = call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {}, late);
  auto second = call_async<void>(pair.a(), {pair.duo.ab, 5}, "keep", "keep", {}, ready);
  REQUIRE(without_the_program(pair, [&] { return second.ready(); }));
  CHECK(second.get().ok());
  CHECK_FALSE(first.ready());
  REQUIRE(pair.duo.until([&] {
    pair.devices.script->run_all();
    return first.ready();
  }));
  CHECK(first.get().ok());
  CHECK(kept.at(2).data()[0] == std::byte{9});
}

TEST_CASE("device tensors: memory for an answer that a program still reads holds up no other") {
  DeviceDuo<Shm> pair;
  pair.connect();
  const Tensor source = pair.other.counting(1000, 4);
  pair.duo.b.handler = [&](InboundCallPtr call) { call->reply(source); };
  const Tensor place = pair.program.counting(1000, 0);
  REQUIRE(pair.duo.call_with<Tensor>({.into = into(place)}, "get").ok());
  pair.devices.script->at_once = false;
  int read = 0;
  REQUIRE(begin_read(place.buffer(), pair.program.stream).ok());
  ScriptedDriver::give_to(pair.program.stream.native(), [&] { read = static_cast<int>(place.data()[7]); });
  auto first = call_async<Tensor>(pair.a(), {pair.duo.ab, 5}, "get", "get", {.into = into(place)});
  pair.duo.settle();
  auto second = call_async<Tensor>(pair.a(), {pair.duo.ab, 5}, "get", "get", {});
  REQUIRE(without_the_program(pair, [&] { return second.ready(); }));
  CHECK(second.get().ok());
  CHECK_FALSE(first.ready());
  REQUIRE(pair.duo.until([&] {
    pair.devices.script->run_all();
    return first.ready();
  }));
  CHECK(first.get().ok());
  CHECK(read == 11);  // as it was before
}

TEST_CASE("device tensors: a one-way message whose time is over when its tensor is written is not sent") {
  DeviceDuo<Shm> pair;
  pair.connect();
  std::vector<Tensor> kept;
  keep_at(pair.duo.b, kept);
  const Tensor late = pair.program.counting(1000, 3);
  pair.devices.script->at_once = false;
  REQUIRE(pair.program.stream.fill(late.data(), 9, late.bytes()).ok());
  REQUIRE(end_write(late.buffer(), pair.program.stream).ok());
  const auto send = [&](Duration timeout) {
    return pair.a()
        .send({pair.duo.ab, 5}, {fnv1a("keep"), 0}, {.timeout = timeout}, detail::arguments_writer(late))
        .ok();
  };
  REQUIRE(send(20ms));
  REQUIRE(send(30s));
  pair.duo.settle(50ms);
  REQUIRE(pair.duo.until([&] {
    pair.devices.script->run_all();
    return !kept.empty();
  }));
  pair.duo.settle();
  CHECK(kept.size() == 1);
}

TEST_CASE("device tensors: an answer in a device to a call of this node with a token is refused") {
  DeviceDuo<Shm> pair;
  const Tensor answer = pair.program.counting(1000, 3);
  pair.duo.a.handler = [&](InboundCallPtr call) { call->reply(answer); };
  auto refused = call_async<Tensor>(pair.a(), {kLocal, 5}, "get", "get", {.token = 5});
  REQUIRE(pair.duo.until([&] { return refused.ready(); }));
  CHECK(refused.get().error().code == Code::kUnimplemented);
}

}  // namespace troupe::rpc::testing
