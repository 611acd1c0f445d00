// Tensors in device memory as arguments, answers, items and places for answers, on a driver without a device.
#include "device_support.hpp"

#include <map>
#include <string>

#include <troupe/rpc/coroutine.hpp>
#include <troupe/rpc/stream.hpp>

namespace troupe::rpc::testing {

namespace {

using contract::Shm;
using contract::Sim;
using contract::Tcp;

/// Keeps the tensors that come, and answers with nothing.
void keep_at(Side& side, std::vector<Tensor>& kept) {
  side.handler = [&kept](InboundCallPtr call) {
    Tensor tensor;
    REQUIRE(Codec<Tensor>::decode(call->message().value(0), tensor));
    kept.push_back(tensor);
    call->reply_void();
  };
}

}  // namespace

TEST_CASE_TEMPLATE(
    "device tensors: staged through the host's memory, they come into the peer's device and back", Kind, Shm,
    Tcp, Sim) {
  for (const std::int64_t count : {1, 64, 100'000, 3'000'000}) {
    CAPTURE(count);
    DeviceDuo<Kind> pair(true, false);
    pair.duo.connect();
    std::vector<Tensor> kept;
    pair.duo.b.handler = [&](InboundCallPtr call) {
      Tensor tensor;
      REQUIRE(Codec<Tensor>::decode(call->message().value(0), tensor));
      kept.push_back(tensor);
      call->reply(tensor);
    };
    const Tensor sent = pair.program.counting(count, 3);
    const auto answer = pair.duo.template call<Tensor>("echo", sent);
    REQUIRE_MESSAGE(answer.ok(), answer.error().to_string());
    REQUIRE(kept.size() == 1);
    CHECK(kept[0].device() == Device{MemoryKind::kDevice, 1});
    CHECK(counts(kept[0], count, 3));
    CHECK(answer->device() == Device{MemoryKind::kDevice, 0});
    CHECK(counts(*answer, count, 3));
    CHECK(answer->data() != sent.data());
    CHECK(pair.a().stats().device_staged == 1);
    CHECK(pair.b().stats().device_staged == 1);
    CHECK(pair.a().stats().device_mapped == 0);
    CHECK(!pair.devices.script->pinned.empty());
  }
}

TEST_CASE_TEMPLATE("device tensors: a peer on this machine that maps the memory copies from there", Kind, Shm,
                   Tcp) {
  DeviceDuo<Kind> pair;
  pair.connect();
  CHECK(pair.duo.a.device_ways[0].find("by CUDA IPC") != std::string::npos);
  std::vector<Tensor> kept;
  keep_at(pair.duo.b, kept);
  Tensor sent = pair.program.counting(5000, 7);
  for (int round = 0; round < 3; ++round) {
    REQUIRE(pair.duo.template call<void>("keep", sent.rows(round, 5000)).ok());
    CHECK(counts(kept.back(), 5000 - round, 7 + round));
    CHECK(kept.back().device() == Device{MemoryKind::kDevice, 1});
    CHECK(kept.back().data() != sent.data() + round);
    CHECK_FALSE(kept.back().read_only());
  }
  CHECK(pair.a().stats().device_mapped == 3);
  CHECK(pair.a().stats().device_staged == 0);
  CHECK(pair.devices.script->pinned.empty());
  // The peer has given them back: the memory is free once we drop it.
  pair.duo.settle();
  sent = Tensor();
  CHECK(pair.program.pool.stats().bytes_in_use == 0);
  // One mapping for the probe, one for the slab, which is used again.
  CHECK(pair.devices.script->opened == 3);
}

TEST_CASE("device tensors: memory of others is copied to where the peer can map it") {
  DeviceDuo<Shm> pair;
  pair.connect();
  std::vector<Tensor> kept;
  keep_at(pair.duo.b, kept);
  const Tensor lies = pair.program.counting(300, 1);
  int released = 0;
  {
    const Tensor lent(
        DType::kUInt8, Shape{300},
        adopt_gpu_memory(pair.program.gpu, lies.data(), 300, lies.device(), pair.program.stream, [&] {
          ++released;
        }).value());
    REQUIRE(pair.duo.call<void>("keep", lent).ok());
  }
  CHECK(counts(kept.at(0), 300, 1));
  CHECK(pair.a().stats().device_mapped == 1);
  CHECK(released == 1);
}

TEST_CASE(
    "device tensors: where the peer's memory cannot be mapped they are staged, and the reason is told") {
  DeviceDuo<Shm> pair;
  pair.devices.script->unreachable = Error{Code::kUnavailable, "the devices are not connected"};
  pair.connect();
  CHECK(pair.duo.b.device_ways[0].find("staged through pinned memory (the devices are not connected)") !=
        std::string::npos);
  std::vector<Tensor> kept;
  keep_at(pair.duo.b, kept);
  for (const std::int64_t count : {64, 1'000'000}) {
    REQUIRE(pair.duo.call<void>("keep", pair.program.counting(count, 5)).ok());
    CHECK(counts(kept.back(), count, 5));
    CHECK(kept.back().device().kind == MemoryKind::kDevice);
  }
  CHECK(pair.a().stats().device_staged == 2);
}

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

TEST_CASE("device tensors: host memory that cannot be locked is an error, and calls without them go on") {
  DeviceDuo<Tcp> pair(true, false);
  pair.devices.script->can_pin = false;
  pair.duo.connect();
  const auto refused = pair.duo.call<Tensor>("tensor", pair.program.counting(64, 5));
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == Code::kResourceExhausted);
  CHECK(refused.error().message.find("cannot be locked") != std::string::npos);
  CHECK(pair.duo.call<std::int64_t>("add", std::int64_t{1}, std::int64_t{2}).value() == 3);
}

TEST_CASE(
    "device tensors: a peer without a GPU has them in host memory, and its answer comes into a device") {
  for (const bool shares : {true, false}) {
    CAPTURE(shares);
    DeviceDuo<Shm> pair(false, shares);
    pair.duo.connect();
    pair.duo.settle();
    std::vector<Tensor> seen;
    pair.duo.b.handler = [&](InboundCallPtr call) {
      Tensor tensor;
      REQUIRE(Codec<Tensor>::decode(call->message().value(0), tensor));
      seen.push_back(tensor);
      call->reply(tensor.clone());
    };
    const Tensor place = pair.program.counting(100'000, 0);
    const auto into_device =
        pair.duo.call_with<Tensor>({.into = into(place)}, "echo", pair.program.counting(100'000, 9));
    REQUIRE_MESSAGE(into_device.ok(), into_device.error().to_string());
    CHECK(seen.at(0).device().kind == MemoryKind::kHost);
    CHECK(counts(seen[0], 100'000, 9));
    CHECK(into_device->data() == place.data());
    CHECK(counts(place, 100'000, 9));
    // Without a place it stays in host memory.
    const auto host = pair.duo.call<Tensor>("echo", pair.program.counting(100, 2));
    REQUIRE(host.ok());
    CHECK(host->device().kind == MemoryKind::kHost);
    CHECK(counts(*host, 100, 2));
  }
}

TEST_CASE_TEMPLATE("device tensors: an answer is received into device memory, or the host's, as asked for",
                   Kind, Shm, Tcp) {
  for (const bool shares : {true, false}) {
    CAPTURE(shares);
    DeviceDuo<Kind> pair(true, shares);
    pair.duo.connect();
    pair.duo.settle(100ms);
    const Tensor source = pair.other.counting(200'000, 4);
    pair.duo.b.handler = [&](InboundCallPtr call) { call->reply(source); };
    const Tensor device = pair.program.counting(200'000, 0);
    const auto there = pair.duo.template call_with<Tensor>({.into = into(device)}, "get");
    REQUIRE_MESSAGE(there.ok(), there.error().to_string());
    CHECK(there->data() == device.data());
    CHECK(counts(device, 200'000, 4));
    const Tensor host = Tensor::zeros(DType::kUInt8, Shape{200'000});
    const auto here = pair.duo.template call_with<Tensor>({.into = into(host)}, "get");
    REQUIRE_MESSAGE(here.ok(), here.error().to_string());
    CHECK(here->data() == host.data());
    CHECK(counts(host, 200'000, 4));
    // Another shape is the caller's fault, and nothing is written.
    for (const Tensor& wrong : {pair.program.counting(100, 1), Tensor::zeros(DType::kUInt8, Shape{100})}) {
      const auto refused = pair.duo.template call_with<Tensor>({.into = into(wrong)}, "get");
      REQUIRE_FALSE(refused.ok());
      CHECK(refused.error().code == Code::kInvalidArgument);
    }
  }
}

TEST_CASE("device tensors: a callee of this node gets the tensor itself, and may answer into a device") {
  DeviceDuo<Shm> pair;
  const Tensor sent = pair.program.counting(1000, 1);
  std::vector<Tensor> kept;
  pair.duo.a.handler = [&](InboundCallPtr call) {
    Tensor tensor;
    REQUIRE(Codec<Tensor>::decode(call->message().value(0), tensor));
    kept.push_back(tensor);
    call->reply(tensor);
  };
  auto future = call_async<Tensor>(pair.a(), {kLocal, 5}, "echo", "echo", {}, sent);
  REQUIRE(pair.duo.until([&] { return future.ready(); }));
  CHECK(kept.at(0).data() == sent.data());
  CHECK(future.get().value().data() == sent.data());
  const Tensor place = pair.program.counting(1000, 100);
  auto placed = call_async<Tensor>(pair.a(), {kLocal, 5}, "echo", "echo", {.into = into(place)}, sent);
  REQUIRE(pair.duo.until([&] { return placed.ready(); }));
  REQUIRE(placed.get().ok());
  CHECK(counts(place, 1000, 1));
}

TEST_CASE("device tensors: a node that was given no GPUs, and one that is strided, are told so") {
  DeviceDuo<Shm> pair(false);
  pair.duo.connect();
  const Tensor foreign = pair.other.counting(64, 1);  // of a GPU that `a` was not given
  const auto refused = pair.duo.call<void>("keep", foreign);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == Code::kFailedPrecondition);
  CHECK(refused.error().message.find("GPU 1") != std::string::npos);
  auto none = call_async<void>(pair.b(), {pair.duo.ba, 5}, "keep", "keep", {}, foreign);
  REQUIRE(pair.duo.until([&] { return none.ready(); }));
  CHECK(none.get().error().code == Code::kFailedPrecondition);
  const Tensor own = pair.program.counting(64, 1);
  const Tensor strided(DType::kUInt8, Shape{8, 8}, Shape{1, 8}, own.buffer(), 0);
  CHECK(pair.duo.call<void>("keep", strided).error().code == Code::kUnimplemented);
  CHECK(pair.duo.call_with<Tensor>({.into = into(foreign)}, "get").error().code == Code::kInvalidArgument);
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
    "device tensors: several in one call, with others, in containers, empty, and with their body apart") {
  for (const bool shares : {true, false}) {
    CAPTURE(shares);
    DeviceDuo<Shm> pair(true, shares);
    pair.duo.connect();
    pair.duo.settle(100ms);
    std::map<std::string, Tensor> got;
    pair.duo.b.handler = [&](InboundCallPtr call) {
      REQUIRE(Codec<std::map<std::string, Tensor>>::decode(call->message().value(0), got));
      call->reply(got);
    };
    for (const int count : {3, 200}) {
      CAPTURE(count);
      std::map<std::string, Tensor> all;
      for (int i = 0; i < count; ++i) {
        all[std::to_string(i) + std::string(40, 'k')] =
            i % 3 == 0   ? pair.program.counting(100 + i, i)
            : i % 3 == 1 ? Tensor::of<std::uint8_t>({1, 2, 3})
                         : Tensor(DType::kUInt8, Shape{0}, pair.program.counting(1, 0).buffer());
      }
      const auto answer = pair.duo.call<std::map<std::string, Tensor>>("echo", all);
      REQUIRE_MESSAGE(answer.ok(), answer.error().to_string());
      for (const auto* each : {&std::as_const(got), &*std::as_const(answer)}) {
        REQUIRE(each->size() == all.size());
        for (int i = 0; i < count; ++i) {
          const Tensor& tensor = each->at(std::to_string(i) + std::string(40, 'k'));
          if (i % 3 == 0) CHECK(tensor.device().kind == MemoryKind::kDevice);
          if (i % 3 == 0) CHECK(counts(tensor, 100 + i, i));
          if (i % 3 == 1) CHECK(counts(tensor, 3, 1));
          if (i % 3 == 2) CHECK(tensor.bytes() == 0);
        }
      }
    }
  }
}

TEST_CASE("device tensors: one-way messages, calls that can be repeated, answers that are kept") {
  DeviceDuo<Shm> pair;
  pair.connect();
  std::vector<Tensor> kept;
  keep_at(pair.duo.b, kept);
  const Tensor sent = pair.program.counting(70'000, 6);
  REQUIRE(pair.a().send({pair.duo.ab, 5}, {fnv1a("keep"), 0}, {}, detail::arguments_writer(sent)).ok());
  REQUIRE(pair.duo.until([&] { return kept.size() == 1; }));
  CHECK(counts(kept[0], 70'000, 6));
  CHECK(pair.a().stats().device_mapped == 1);
  // With a token it may go over another link: its bytes go along.
  Answer& answer = pair.duo.answer();
  CallOptions options;
  options.token = 77;
  options.retry.max_attempts = 3;
  pair.a().call_with_retries(
      [&] {
        return Result<CallTarget>(CallTarget{pair.duo.ab, 5});
      },
      {fnv1a("keep"), 0}, options, detail::arguments_writer(sent), answer);
  REQUIRE(pair.duo.until([&] { return answer.count == 1; }));
  CHECK(answer.code() == Code::kOk);
  CHECK(counts(kept.at(1), 70'000, 6));
  CHECK(pair.a().stats().device_staged == 1);
  // Its answer would be copied before the device has written it.
  pair.devices.script->at_once = false;
  pair.duo.b.handler = [&](InboundCallPtr call) { call->reply(pair.other.counting(64, 1)); };
  auto refused = call_async<Tensor>(pair.a(), {pair.duo.ab, 5}, "get", "get", {.token = 78});
  REQUIRE(pair.duo.until([&] {
    if (refused.ready()) return true;
    pair.duo.settle(1ms);
    pair.devices.script->run_all();
    return refused.ready();
  }));
  CHECK(refused.get().error().code == Code::kUnimplemented);
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
      CHECK(pair.program.pool.stats().bytes_in_use == 0);
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

}  // namespace troupe::rpc::testing
