// What is of NCCL alone: the order of streams, and all that ends a group, by the library in its place.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "communicators/work.hpp"
#include "nccl_kinds.hpp"

namespace troupe::shards {

using namespace test;
using namespace std::chrono_literals;

TEST_CASE("stand-in NCCL: without agreement collectives work, and who does not come is late all the same") {
  const Fake fake;
  CommunicatorOptions options;
  options.check_calls = false;
  options.timeout = 700ms;
  std::atomic<int> ended_members{0};
  all_well(with_two(
      fake,
      [&](Communicator& group) -> std::string {
        const Side side(fake.kind, group.rank());
        const Tensor sum = side.filled(DType::kFloat32, 1000, group.rank());
        if (!group.all_reduce(sum, ReduceOp::kSum).wait() || !group.barrier().wait()) return "failed";
        if (auto d = side.differences(sum, [](std::int64_t i) { return reduced(ReduceOp::kSum, 2, i); });
            !d.empty())
          return d;
        if (group.rank() == 1) {
          while (ended_members == 0 && group.state()) std::this_thread::yield();
          return "";
        }
        const Result<void> late = group.all_reduce(sum, ReduceOp::kSum).wait();
        ++ended_members;
        return code_of(late) == "DEADLINE_EXCEEDED" && code_of(group.barrier().wait()) == "DEADLINE_EXCEEDED"
                   ? ""
                   : code_of(late);
      },
      options));
}

TEST_CASE(
    "stand-in NCCL: a collective comes after what was written, and readers after it, and nobody waits") {
  Fake fake(2);
  std::atomic<bool> written{false};
  std::atomic<int> read{0};
  all_well(with_two(fake, [&](Communicator& group) -> std::string {
    Machine& machine = *(*fake.machines)[static_cast<std::size_t>(group.rank())];
    const Tensor tensor = machine.pool.empty(DType::kInt64, Shape{1}, machine.stream).value();
    const Stream reader = machine.gpu.make_stream().value();
    auto* const value = reinterpret_cast<std::int64_t*>(tensor.data());
    const int me = group.rank();
    // A long kernel writes it, and is not done when the collective is called.
    HostDriver::give(machine.stream.native(), [&written, value, me] {
      while (!written) std::this_thread::yield();
      *value = me + 1;
    }).value();
    end_write(tensor.buffer(), machine.stream).value();
    const Work work = group.all_reduce(tensor, ReduceOp::kSum);
    const Work second = group.all_reduce(tensor, ReduceOp::kSum);
    const bool waited = work.done() || work.wait(1ms).ok();
    std::atomic<std::int64_t> by_buffer{0};
    std::atomic<std::int64_t> by_work{0};
    begin_read(tensor.buffer(), reader).value();
    HostDriver::give(reader.native(), [&by_buffer, value] { by_buffer = *value; }).value();
    const Stream other = machine.gpu.make_stream().value();
    if (!second.before(other)) return "before";
    HostDriver::give(other.native(), [&by_work, value] { by_work = *value; }).value();
    ++read;
    if (read == 2) written = true;
    reader.finish(kPatience).value();
    other.finish(kPatience).value();
    if (waited) return "somebody waited";
    if (by_buffer != 6 || by_work != 6) return "read too early";
    return second.wait() && group.barrier().wait() ? "" : "not done";
  }));
}

TEST_CASE("stand-in NCCL: a member stuck inside a call of NCCL's is let go before what it uses goes") {
  const Fake fake;
  CommunicatorOptions options;
  options.timeout = 600ms;
  std::atomic<int> formed{0};
  const auto found = with_two(
      fake,
      [&](Communicator& group) -> std::string {
        if (++formed == 2) fake.script->stuck_in_call = 0;
        while (fake.script->stuck_in_call != 0) std::this_thread::yield();
        const Tensor tensor = Side(fake.kind, group.rank()).filled(DType::kFloat32, 10, 0);
        const Result<void> ended = group.all_reduce(tensor, ReduceOp::kSum).wait();
        return code_of(ended);
      },
      options);
  fake.script->stuck_in_call = -1;
  for (const std::string& code : found) CHECK((code == "DEADLINE_EXCEEDED" || code == "UNAVAILABLE"));
  CHECK((found[0] == "DEADLINE_EXCEEDED" || found[1] == "DEADLINE_EXCEEDED"));
}

TEST_CASE("stand-in NCCL: what NCCL and the device say in the background ends the group") {
  Fake fake(2);
  std::atomic<int> formed{0};
  const auto told = with_two(fake, [&](Communicator& group) -> std::string {
    if (++formed == 2) fake.script->told_of_error = 0;
    while (fake.script->told_of_error != 0) std::this_thread::yield();
    Result<void> ended;
    while (ended) ended = group.barrier().wait();
    return code_of(ended);
  });
  fake.script->told_of_error = -1;
  CHECK(told == std::vector<std::string>{"UNAVAILABLE", "UNAVAILABLE"});
  // The kernels that this is about outlive their members' functions.
  std::atomic<bool> goes_on[2] = {false, false};
  const auto broken = with_two(fake, [&](Communicator& group) -> std::string {
    const auto me = static_cast<std::size_t>(group.rank());
    Machine& machine = *(*fake.machines)[me];
    const Tensor tensor = machine.place(filled(DType::kFloat32, 10, 0));
    // A kernel of the program's runs into a fault; the collective is behind it.
    HostDriver::give(machine.stream.native(), [&goes_on, me] {
      while (!goes_on[me]) std::this_thread::yield();
    }).value();
    end_write(tensor.buffer(), machine.stream).value();
    const Work work = group.all_reduce(tensor, ReduceOp::kSum);
    if (me == 0) fake.drivers[0]->fail({Code::kInternal, "an illegal address"});
    while (group.state()) std::this_thread::sleep_for(1ms);
    // The broken one does not go on before the other one has ended: it could have its part done before NCCL
    // is told to end, and then the other one is well.
    if (me == 1) goes_on[1] = true;
    const std::string code = code_of(work.wait());
    if (me == 1) goes_on[0] = true;
    return code;
  });
  CHECK(broken == std::vector<std::string>{"INTERNAL", "UNAVAILABLE"});
}

TEST_CASE("stand-in NCCL: an end that NCCL does not come to is not waited for longer than the timeout") {
  const Fake fake;
  CommunicatorOptions options;
  options.timeout = 500ms;
  fake.script->stuck_in_abort = true;
  const auto begin = std::chrono::steady_clock::now();
  all_well(with_two(
      fake,
      [&](Communicator& group) -> std::string {
        const Tensor tensor = Side(fake.kind, group.rank()).filled(DType::kFloat32, 10, 0);
        if (group.rank() == 1) {
          while (group.state()) std::this_thread::sleep_for(1ms);
          return "";
        }
        return code_of(group.all_reduce(tensor, ReduceOp::kSum).wait()) == "DEADLINE_EXCEEDED" ? ""
                                                                                               : "not late";
      },
      options));
  CHECK(std::chrono::steady_clock::now() - begin < 8s);  // 0.5 s, and 2 s for NCCL
  fake.script->stuck_in_abort = false;
  while (fake.script->alive != 0) std::this_thread::sleep_for(1ms);
}

TEST_CASE(
    "stand-in NCCL: a call for which there is no memory ends the group, and leaves nobody out of step") {
  Fake fake(2);
  const auto found = with_two(fake, [&](Communicator& group) -> std::string {
    const Tensor tensor = Side(fake.kind, group.rank()).filled(DType::kFloat32, 10, 0);
    if (group.rank() == 0) fake.drivers[0]->run_out_once();
    Result<void> ended;
    while (ended) ended = group.all_reduce(tensor, ReduceOp::kSum).wait();
    return code_of(ended);
  });
  CHECK(found[0] == "RESOURCE_EXHAUSTED");
  CHECK(found[1] == "UNAVAILABLE");
}

TEST_CASE(
    "stand-in NCCL: a collective's time runs from when the one before has passed, also where calls are "
    "checked") {
  Fake fake(2);
  CommunicatorOptions options;
  options.timeout = 3s;
  all_well(with_two(
      fake,
      [&](Communicator& group) -> std::string {
        Machine& machine = *(*fake.machines)[static_cast<std::size_t>(group.rank())];
        const Tensor tensor = machine.place(filled(DType::kFloat32, 10, 0));
        const auto begin = std::chrono::steady_clock::now();
        // A kernel of two seconds, with the first collective behind it.
        HostDriver::give(machine.stream.native(), [begin] {
          std::this_thread::sleep_until(begin + 2s);
        }).value();
        end_write(tensor.buffer(), machine.stream).value();
        const Work first = group.all_reduce(tensor, ReduceOp::kMax);
        if (group.rank() == 1) {
          if (auto ended = first.wait(); !ended) return ended.error().to_string();
          std::this_thread::sleep_until(begin + 4s);  // in time: the second one's ends at five
        }
        const Result<void> second = group.all_reduce(tensor, ReduceOp::kMax).wait();
        if (!second) return second.error().to_string();
        return group.barrier().wait() ? "" : "the barrier";
      },
      options));
}

TEST_CASE("stand-in NCCL: past what may be under way a call waits for room, also from where ends are told") {
  const Fake fake;
  CommunicatorOptions options;
  options.max_waiting = 2;
  std::atomic<bool> comes{false};
  all_well(with_two(
      fake,
      [&](Communicator& group) -> std::string {
        const Side side(fake.kind, group.rank());
        const Tensor tensor = side.filled(DType::kFloat32, 10, 0);
        const Tensor again = side.filled(DType::kFloat32, 10, 0);
        if (group.rank() == 1)
          while (!comes) std::this_thread::yield();
        std::optional<Work> inner;
        std::vector<Work> works;
        works.push_back(group.all_reduce(tensor, ReduceOp::kMax));
        if (group.rank() == 0) comes = true;
        for (int i = 0; i < 6; ++i) works.push_back(group.all_reduce(tensor, ReduceOp::kMax));
        for (const Work& work : works)
          if (!work.wait()) return "not done";
        // One collective for each member, from the thread that tells.
        std::atomic<bool> told{false};
        works.back().then([&](const Result<void>&) {
          inner = group.all_reduce(again, ReduceOp::kMax);
          told = true;
        });
        while (!told) std::this_thread::yield();
        return inner->wait() && group.barrier().wait() ? "" : "the inner one";
      },
      options));
}

TEST_CASE(
    "who is told of a work's end is told in the order in which they asked, whoever asks while others are "
    "told") {
  Work::State state;
  std::string order;
  state.then([&](const Result<void>&) {
    order += "1";
    state.then([&](const Result<void>&) { order += "3"; });
  });
  state.then([&](const Result<void>&) { order += "2"; });
  state.finish({});
  state.then([&](const Result<void>&) { order += "4"; });
  CHECK(order == "1234");
}

TEST_CASE("stand-in NCCL: forming ends in time, or when it is given up, and leaves nothing behind") {
  const Fake fake;
  const auto codes = [&](const CommunicatorOptions& options) {
    return with_two(
        fake, [](Communicator&) -> std::string { return "formed"; }, options);
  };
  CommunicatorOptions options;
  options.timeout = 500ms;
  fake.script->stuck_in_init = 1;
  for (const std::string& text : codes(options))
    CHECK_MESSAGE((text.find("DEADLINE_EXCEEDED") == 0 || text.find("UNAVAILABLE") == 0), text);
  options.timeout = kPatience;
  options.given_up = [] { return Error{Code::kAborted, "it is not worth waiting"}; };
  for (const std::string& text : codes(options))
    CHECK_MESSAGE((text.find("ABORTED") == 0 || text.find("UNAVAILABLE") == 0), text);
  fake.script->stuck_in_init = -1;
  // One member is inside NCCL, in the first collective.
  fake.script->stuck_in_call = 1;
  for (const std::string& text : codes(options))
    CHECK_MESSAGE((text.find("ABORTED") == 0 || text.find("UNAVAILABLE") == 0), text);
  options.given_up = {};
  options.timeout = 500ms;
  for (const std::string& text : codes(options))
    CHECK_MESSAGE((text.find("DEADLINE_EXCEEDED") == 0 || text.find("UNAVAILABLE") == 0), text);
  fake.script->stuck_in_call = -1;
  CHECK(codes({}) == std::vector<std::string>{"formed", "formed"});
}

TEST_CASE("stand-in NCCL: no NCCL, an old one, another one or something else is said, to all members") {
  Fake fake(2);
  const auto found_with = [&](const std::string& first, const std::string& second) {
    CommunicatorKind kind = fake.kind;
    kind.make = [&](CommunicatorOptions options, AddressExchange exchange) {
      const Gpu gpu = (*fake.machines)[static_cast<std::size_t>(options.rank)]->gpu;
      const std::string library = options.rank == 0 ? first : second;
      return make_nccl_communicator(std::move(options), {gpu, library}, std::move(exchange));
    };
    return with_members(kind, 2, [](Communicator&) -> std::string { return "formed"; });
  };
  const auto none = found_with(kFakeLibrary, "libnccl-that-is-not-there.so.2");
  CHECK_MESSAGE(none[0].find("UNAVAILABLE") == 0, none[0]);
  CHECK_MESSAGE(none[1].find("UNAVAILABLE") == 0, none[1]);
  CHECK_MESSAGE(none[1].find("Install") != std::string::npos, none[1]);
  const auto other = found_with("libm.so.6", kFakeLibrary);
  CHECK_MESSAGE(other[0].find("FAILED_PRECONDITION") == 0, other[0]);
  fake.script->version = 21805;
  const auto old = found_with(kFakeLibrary, kFakeLibrary);
  CHECK_MESSAGE(old[0].find("FAILED_PRECONDITION") == 0, old[0]);
  CHECK_MESSAGE(old[0].find("2.18.5") != std::string::npos, old[0]);
  fake.script->version = 22809;
  for (const auto& [name, value] :
       {std::pair{"NCCL_COMM_BLOCKING", "1"}, {"NCCL_COMM_SPLIT_SHARE_RESOURCES", "0"}}) {
    REQUIRE(::setenv(name, value, 1) == 0);
    const auto overridden = found_with(kFakeLibrary, kFakeLibrary);
    CHECK_MESSAGE(overridden[0].find("FAILED_PRECONDITION") == 0, overridden[0]);
    CHECK_MESSAGE(overridden[0].find(name) != std::string::npos, overridden[0]);
    REQUIRE(::unsetenv(name) == 0);
  }
  // A GPU that has failed.
  fake.drivers[0]->fail({Code::kInternal, "an illegal address"});
  const auto failed = found_with(kFakeLibrary, kFakeLibrary);
  CHECK_MESSAGE(failed[0].find("INTERNAL") == 0, failed[0]);
  CHECK_MESSAGE(failed[1].find("UNAVAILABLE") == 0, failed[1]);
}

TEST_CASE("stand-in NCCL: tensors elsewhere and elements that NCCL does not reduce are refused") {
  const Fake fake;
  all_well(with_two(fake, [&](Communicator& group) -> std::string {
    const Side side(fake.kind, group.rank());
    const Tensor host = filled(DType::kFloat32, 4, 0);
    const Tensor elsewhere = fake.kind.place(1 - group.rank(), host);
    const Tensor small = side.filled(DType::kInt16, 4, 0);
    for (const Work& work :
         {group.all_reduce(host, ReduceOp::kSum), group.all_reduce(elsewhere, ReduceOp::kSum),
          group.all_reduce(small, ReduceOp::kSum)})
      if (code_of(work.wait()) != "INVALID_ARGUMENT") return code_of(work.wait());
    return group.broadcast(small, 0).wait() && group.barrier().wait() ? "" : "it does not go on";
  }));
}

}  // namespace troupe::shards
