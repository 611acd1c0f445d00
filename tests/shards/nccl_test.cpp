// Collectives of tensors in the memory of GPUs: by NCCL where there are some, and everywhere by a library
// that takes NCCL's place over devices whose memory is the host's and whose streams are threads.
#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/runtime/gpu_memory.hpp>

#include "communicator_contract.hpp"
#include "member_processes.hpp"
#include "nccl/fake_nccl.hpp"
#include "nccl/host_driver.hpp"

namespace troupe::shards {
namespace {

using namespace test;
using namespace std::chrono_literals;
using troupe::test::FakeNcclScript;
using troupe::test::HostDriver;

constexpr auto kPatience = std::chrono::seconds(60);

/// A member's GPU, with a stream and memory.
struct Machine {
  explicit Machine(Gpu opened) : gpu(std::move(opened)), pool(gpu), stream(gpu.make_stream().value()) {}
  Tensor place(const Tensor& host) {
    Tensor there = pool.empty(host.dtype(), host.shape(), stream).value();
    stream.copy(there.data(), host.data(), host.bytes()).value();
    end_write(there.buffer(), stream).value();
    stream.finish(kPatience).value();
    return there;
  }
  Tensor fetch(const Tensor& there) const {
    if (there.device().kind != MemoryKind::kDevice) return there;
    Tensor host = Tensor::empty(there.dtype(), there.shape());
    begin_read(there.buffer(), stream).value();
    stream.copy(host.data(), there.data(), there.bytes()).value();
    stream.finish(kPatience).value();
    return host;
  }
  Gpu gpu;
  GpuPool pool;
  Stream stream;
};
using Machines = std::vector<std::unique_ptr<Machine>>;

CommunicatorKind kind_of(const std::shared_ptr<Machines>& machines, const std::string& library) {
  const auto of = [machines](int rank) -> Machine& {
    return *(*machines)[static_cast<std::size_t>(rank) % machines->size()];
  };
  CommunicatorKind kind;
  kind.done_beside_others = true;
  kind.most_members = static_cast<int>(machines->size());
  kind.make = [of, library](CommunicatorOptions options, AddressExchange exchange) {
    const Gpu gpu = of(std::abs(options.rank)).gpu;
    return make_nccl_communicator(std::move(options), {gpu, library}, std::move(exchange));
  };
  kind.place = [of](int rank, const Tensor& host) { return of(rank).place(host); };
  kind.fetch = [of](int rank, const Tensor& there) { return of(rank).fetch(there); };
  kind.reduces = [](DType dtype, ReduceOp) { return dtype != DType::kInt16 && dtype != DType::kUInt16; };
  return kind;
}

const std::string kFakeLibrary = TROUPE_TEST_NCCL;

/// With no GPU.
struct Fake {
  explicit Fake(int members = 5) {
    for (int i = 0; i < members; ++i) {
      auto driver = std::make_unique<HostDriver>(i);
      drivers.push_back(driver.get());
      machines->push_back(std::make_unique<Machine>(Gpu(std::move(driver))));
    }
    kind = kind_of(machines, kFakeLibrary);
    void* const library = ::dlopen(kFakeLibrary.c_str(), RTLD_NOW | RTLD_LOCAL);
    REQUIRE(library != nullptr);
    const auto find = reinterpret_cast<FakeNcclScript* (*)()>(::dlsym(library, "fake_nccl_script"));
    script = find();
  }
  ~Fake() {
    CHECK(script->misused == 0);
    CHECK(script->alive == 0);
  }
  Fake(const Fake&) = delete;
  Fake& operator=(const Fake&) = delete;

  std::vector<HostDriver*> drivers;
  std::shared_ptr<Machines> machines = std::make_shared<Machines>();
  CommunicatorKind kind;
  FakeNcclScript* script = nullptr;
};

std::string real_library() {
  const char* const named = std::getenv("TROUPE_TEST_REAL_NCCL");
  return named ? named : "libnccl.so.2";
}

/// All GPUs that there are, and NCCL; nothing, after saying why the test is skipped, where there are none.
std::optional<CommunicatorKind> real_kind() {
  const auto gpus = list_gpus();
  if (!gpus) {
    MESSAGE("skipped: ", gpus.error().message);
    return {};
  }
  if (::dlopen(real_library().c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr) {
    MESSAGE("skipped: there is no NCCL (TROUPE_TEST_REAL_NCCL says where): ", ::dlerror());
    return {};
  }
  auto machines = std::make_shared<Machines>();
  for (const GpuInfo& gpu : *gpus)
    machines->push_back(std::make_unique<Machine>(Gpu::open(gpu.ordinal).value()));
  return kind_of(machines, real_library());
}

/// Two members, each with a thread; what they find wrong.
std::vector<std::string> with_two(const Fake& fake, const std::function<std::string(Communicator&)>& body,
                                  CommunicatorOptions options = {}) {
  return with_members(fake.kind, 2, body, std::move(options));
}

std::string code_of(const Result<void>& ended) {
  return std::string(to_string(ended ? Code::kOk : ended.error().code));
}

}  // namespace

TEST_CASE("stand-in NCCL: collectives give what a plain loop gives") {
  const Fake fake;
  collectives_give_what_a_plain_loop_gives(fake.kind);
}
TEST_CASE("stand-in NCCL: unequal parts find their places") {
  const Fake fake;
  unequal_parts_find_their_places(fake.kind);
}
TEST_CASE("stand-in NCCL: transfers meet by tag, and cross") {
  const Fake fake;
  transfers_meet_by_tag_and_cross(fake.kind);
}
TEST_CASE("stand-in NCCL: collectives may be many and are told in order") {
  const Fake fake;
  works_may_be_many_and_are_told_in_order(fake.kind);
}
TEST_CASE("stand-in NCCL: parts of a group are groups") {
  const Fake fake;
  parts_of_a_group_are_groups(fake.kind);
}
TEST_CASE("stand-in NCCL: a collective that is wrong by itself is refused, and the group goes on") {
  const Fake fake;
  what_is_wrong_by_itself_is_refused_and_the_group_goes_on(fake.kind);
}
TEST_CASE("stand-in NCCL: members that do different things are told") {
  const Fake fake;
  members_that_do_different_things_are_told(fake.kind);
}
TEST_CASE("stand-in NCCL: a member that does not come ends the group in time") {
  const Fake fake;
  who_does_not_come_ends_it_in_time(fake.kind);
}
TEST_CASE("stand-in NCCL: aborting ends what waits, everywhere") {
  const Fake fake;
  aborting_ends_what_waits_everywhere(fake.kind);
}
TEST_CASE("stand-in NCCL: a group that does not come together says so") {
  const Fake fake;
  a_group_that_does_not_come_together_says_so(fake.kind);
}

TEST_CASE(
    "stand-in NCCL: members die in mid-collective, one after the other, and the others form anew each time") {
#ifdef TROUPE_SANITIZER
  constexpr int kDeaths = 20;
#else
  constexpr int kDeaths = 100;
#endif
  const auto fake = std::make_shared<std::unique_ptr<Fake>>();  // made by each process
  const auto kind = [fake] {
    *fake = std::make_unique<Fake>(3);
    return (*fake)->kind;
  };
  die_and_form_anew(kind, 3, kDeaths, 50s);
}

TEST_CASE("stand-in NCCL: a member that is stopped in mid-collective ends the group at its deadline") {
  const auto fake = std::make_shared<std::unique_ptr<Fake>>();
  const auto kind = [fake] {
    *fake = std::make_unique<Fake>(3);
    return (*fake)->kind;
  };
  stop_in_mid_collective(kind, 3, 1500ms);
}

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
  const auto broken = with_two(fake, [&](Communicator& group) -> std::string {
    Machine& machine = *(*fake.machines)[static_cast<std::size_t>(group.rank())];
    const Tensor tensor = machine.place(filled(DType::kFloat32, 10, 0));
    std::atomic<bool> goes_on{false};
    // A kernel of the program's runs into a fault; the collective is behind it.
    HostDriver::give(machine.stream.native(), [&goes_on] {
      while (!goes_on) std::this_thread::yield();
    }).value();
    end_write(tensor.buffer(), machine.stream).value();
    const Work work = group.all_reduce(tensor, ReduceOp::kSum);
    if (group.rank() == 0) fake.drivers[0]->fail({Code::kInternal, "an illegal address"});
    while (group.state()) std::this_thread::sleep_for(1ms);
    goes_on = true;
    return code_of(work.wait());
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
  CHECK(std::chrono::steady_clock::now() - begin < 30s);
  fake.script->stuck_in_abort = false;
  while (fake.script->alive != 0) std::this_thread::sleep_for(1ms);
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

TEST_CASE("NCCL in processes: members die in mid-collective, one after the other, and the others form anew") {
  // CUDA does not live on in a forked process: the GPUs are counted by one that ends, and no test before this
  // one may have used them in the process of the test.
  const Member counts = begin_member([](int fd) {
    const auto gpus = list_gpus();
    const bool usable = gpus && Gpu::open(0);
    return give(fd, std::to_string(usable ? gpus->size() : 0)) ? 0 : 1;
  });
  const int gpus = std::atoi(take(counts.socket.get()).c_str());
  CHECK(::waitpid(counts.pid, nullptr, 0) == counts.pid);
  if (gpus < 2 || ::dlopen(real_library().c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr) {
    MESSAGE("skipped: there are ", gpus, " GPUs, and it needs two, and NCCL");
    return;
  }
  const char* const asked = std::getenv("TROUPE_TEST_DEATHS");
  const auto kept = std::make_shared<std::optional<CommunicatorKind>>();
  const auto kind = [kept] {
    *kept = real_kind();
    return kept->value();
  };
  die_and_form_anew(kind, std::min(gpus, 3), asked ? std::atoi(asked) : 10, 50s);
}

TEST_CASE("NCCL: collectives give what a plain loop gives") {
  if (const auto kind = real_kind()) collectives_give_what_a_plain_loop_gives(*kind);
}
TEST_CASE("NCCL: unequal parts find their places") {
  if (const auto kind = real_kind()) unequal_parts_find_their_places(*kind);
}
TEST_CASE("NCCL: transfers meet by tag, and cross") {
  if (const auto kind = real_kind()) transfers_meet_by_tag_and_cross(*kind);
}
TEST_CASE("NCCL: collectives may be many and are told in order") {
  if (const auto kind = real_kind()) works_may_be_many_and_are_told_in_order(*kind);
}
TEST_CASE("NCCL: parts of a group are groups") {
  if (const auto kind = real_kind()) parts_of_a_group_are_groups(*kind);
}
TEST_CASE("NCCL: a collective that is wrong by itself is refused, and the group goes on") {
  if (const auto kind = real_kind()) what_is_wrong_by_itself_is_refused_and_the_group_goes_on(*kind);
}
TEST_CASE("NCCL: members that do different things are told") {
  if (const auto kind = real_kind()) members_that_do_different_things_are_told(*kind);
}
TEST_CASE("NCCL: a member that does not come ends the group in time") {
  if (const auto kind = real_kind()) who_does_not_come_ends_it_in_time(*kind);
}
TEST_CASE("NCCL: aborting ends what waits, everywhere") {
  if (const auto kind = real_kind()) aborting_ends_what_waits_everywhere(*kind);
}

}  // namespace troupe::shards
