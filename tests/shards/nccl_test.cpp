// Communicators of tensors in the memory of GPUs do what all do.
#include <troupe/runtime/gpu.hpp>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include <doctest/doctest.h>

#include "member_processes.hpp"
#include "nccl_kinds.hpp"

namespace troupe::shards {

using namespace test;
using namespace std::chrono_literals;

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
TEST_CASE("stand-in NCCL: collectives of a group end together, with one launch") {
  const Fake fake;
  groups_end_together(fake.kind);
  fake.script->launches = 0;
  all_well(with_members(fake.kind, 2, [](Communicator&) { return std::string(); }));
  const int to_form = fake.script->launches.exchange(0);
  all_well(with_members(fake.kind, 2, [&](Communicator& all) -> std::string {
    const Side side(fake.kind, all.rank());
    const Tensor a = side.filled(DType::kFloat32, 100, all.rank());
    const Tensor b = side.filled(DType::kFloat32, 100, all.rank());
    const Tensor c = side.filled(DType::kInt8, 100, all.rank());
    const Work whole = all.group([&] {
      (void)all.all_reduce(a, ReduceOp::kSum);
      (void)all.all_reduce(b, ReduceOp::kMax);
      (void)all.broadcast(c, 0);
    });
    const auto ended = whole.wait();
    return ended ? "" : ended.error().to_string();
  }));
  CHECK(fake.script->launches == to_form + 2);  // one of each member
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
TEST_CASE("NCCL: collectives of a group end together") {
  if (const auto kind = real_kind()) groups_end_together(*kind);
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
