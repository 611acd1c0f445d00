// The end of a schedule: what must be true of the cluster then.
#include <algorithm>
#include <set>

#include "schedule.hpp"

namespace troupe::sim {

using namespace std::chrono_literals;

namespace {

constexpr Duration kRound = 300ms;  // of waiting for the cluster to agree
constexpr int kRounds = 25;
constexpr Duration kForgetting = 3 * kSilence;  // until owners have told again what they hold

}  // namespace

void Schedule::finish() {
  while (!cuts_.empty()) mend();
  world_.run_for(kTimeout + 10ms);
  // A stream may take as long as all its items may.
  const auto open = [&] {
    return std::any_of(readings_.begin(), readings_.end(),
                       [&](const auto& reading) { return history_.call(reading->call).ended == 0; });
  };
  for (int rounds = 0; rounds < 13 && open(); ++rounds) world_.run_for(kTimeout);
  for (std::string& fault : history_.faults(now())) faults_.push_back(std::move(fault));
  for (int round = 0; round < kRounds && !agreed(); ++round) world_.run_for(kRound);
  check_members();
  check_objects();
  readings_.clear();
  // All at once: fifty farewells would cost as much as the schedule.
  for (const auto& [index, member] : members_) world_.kill(member.host);
  for (int index = plan_.nodes - 1; index >= 0; --index) members_.erase(index);
}

/// Whether those whom the first node knows are those who still belong to it, and all of these know the same.
bool Schedule::agreed() {
  const Membership truth = members_.at(0).node->membership();
  std::set<std::uint64_t> known;
  for (const troupe::Member& member : truth.members) known.insert(member.node_id);
  std::size_t belonging = 0;
  for (auto& [index, member] : members_) {
    if (!known.contains(member.life)) continue;
    ++belonging;
    if (member.node->membership().version != truth.version) return false;
  }
  return belonging == truth.members.size();
}

/// Objects to which nobody refers any more, and those of owners that have gone, end.
void Schedule::check_objects() {
  held_.clear();
  world_.run_for(kForgetting);
  if (things_.empty()) return;
  std::set<std::uint64_t> known;
  for (const troupe::Member& member : members_.at(0).node->membership().members) known.insert(member.node_id);
  for (const auto& [thing, made] : things_) {
    const Member* host = find(made.host);
    // Who was given up hears nothing any more.
    if (host && known.contains(host->life))
      faults_.push_back("the object of call " + std::to_string(made.call) + " lives on at n" +
                        std::to_string(made.host) + ", though nobody refers to it");
  }
}

void Schedule::check_members() {
  if (!agreed()) return faults_.push_back("the members do not agree on who is there");
  const Membership truth = members_.at(0).node->membership();
  std::set<std::uint64_t> known;
  for (const troupe::Member& member : truth.members) known.insert(member.node_id);
  for (auto& [index, member] : members_)
    if (!known.contains(member.life) && member.node->run().ok())
      faults_.push_back("n" + std::to_string(index) + " was given up, and does not know");
}

}  // namespace troupe::sim
