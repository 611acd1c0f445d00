#include <chrono>
#include <string>

#include <doctest/doctest.h>

#include "communicator_contract.hpp"
#include "member_processes.hpp"

namespace troupe::shards {
namespace {

using namespace test;

const CommunicatorKind kGloo{[](CommunicatorOptions options, AddressExchange exchange) {
  return make_gloo_communicator(std::move(options), std::move(exchange));
}};

}  // namespace

TEST_CASE("collectives give what a plain loop gives") {
  collectives_give_what_a_plain_loop_gives(kGloo);
}
TEST_CASE("unequal parts find their places") {
  unequal_parts_find_their_places(kGloo);
}
TEST_CASE("transfers meet by tag, and cross") {
  transfers_meet_by_tag_and_cross(kGloo);
}
TEST_CASE("collectives may be many and are told in order") {
  works_may_be_many_and_are_told_in_order(kGloo);
}
TEST_CASE("Gloo: collectives of a group end together") {
  groups_end_together(kGloo);
}
TEST_CASE("parts of a group are groups") {
  parts_of_a_group_are_groups(kGloo);
}
TEST_CASE("a collective that is wrong by itself is refused, and the group goes on") {
  what_is_wrong_by_itself_is_refused_and_the_group_goes_on(kGloo);
}
TEST_CASE("members that do different things are told") {
  members_that_do_different_things_are_told(kGloo);
}
TEST_CASE("a member that does not come ends the group in time") {
  who_does_not_come_ends_it_in_time(kGloo);
}
TEST_CASE("aborting ends what waits, everywhere") {
  aborting_ends_what_waits_everywhere(kGloo);
}
TEST_CASE("a group that does not come together says so") {
  a_group_that_does_not_come_together_says_so(kGloo);
}

TEST_CASE("collectives work without being checked") {
  CommunicatorOptions options;
  options.check_calls = false;
  all_well(with_members(
      kGloo, 3,
      [](Communicator& group) -> std::string {
        const Tensor sum = filled(DType::kFloat32, 1000, group.rank());
        if (!group.all_reduce(sum, ReduceOp::kSum).wait() || !group.barrier().wait()) return "failed";
        const Tensor one = filled(DType::kFloat32, 3, group.rank());
        if (group.rank() == 0 && !group.send(one, 1).wait()) return "send";
        if (group.rank() == 1 && !group.receive(one, 0).wait()) return "receive";
        return differences(sum, [](std::int64_t i) { return reduced(ReduceOp::kSum, 3, i); });
      },
      options));
}

TEST_CASE(
    "a hundred members die in mid-collective, one after the other, and the others form anew each time") {
  constexpr int kDeaths = 100;
  const auto timeout = std::chrono::seconds(50);  // long enough to be no answer
  die_and_form_anew([] { return kGloo; }, 3, kDeaths, timeout);
}

TEST_CASE("a member that is stopped in mid-collective ends the group at its deadline") {
  stop_in_mid_collective([] { return kGloo; }, 3, std::chrono::milliseconds(1500));
}

}  // namespace troupe::shards
