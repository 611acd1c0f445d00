// Tensors in device memory as arguments, answers, items and places for answers, on a driver without a device.
#include "device_support.hpp"

#include <map>
#include <string>

namespace troupe::rpc::testing {

namespace {

using contract::Shm;
using contract::Sim;
using contract::Tcp;

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
  const Tensor host = Tensor::zeros(DType::kUInt8, Shape{1000});
  auto here = call_async<Tensor>(pair.a(), {kLocal, 5}, "echo", "echo", {.into = into(host)}, sent);
  REQUIRE(pair.duo.until([&] { return here.ready(); }));
  REQUIRE(here.get().ok());
  CHECK(counts(host, 1000, 1));
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

}  // namespace troupe::rpc::testing
