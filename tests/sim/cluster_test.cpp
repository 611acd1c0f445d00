// A whole cluster in virtual time, from a seed: fifty nodes join, leave (at once, or in order), die, stall
// and are cut off at random while they call each other in all ways. Every call must end once, in time, and
// its outcome must be the truth; and the same seed must give the same run again.
//
// Environment: TROUPE_SIM_SEED replays one seed. TROUPE_SIM_FIRST and TROUPE_SIM_COUNT run other seeds than
// those of every day; see tests/README.md.
#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <string>

#include <doctest/doctest.h>

#include <troupe/actors/caf.hpp>

#include "schedule.hpp"

using namespace troupe;
using namespace troupe::sim;

namespace {

struct System {
  System() {
    register_caf_types();
    use_waiting_scheduler(config, 1);
    system = std::make_unique<caf::actor_system>(config);
  }
  caf::actor_system_config config;
  std::unique_ptr<caf::actor_system> system;
};

#ifdef TROUPE_SANITIZER
constexpr std::uint64_t kSeeds = 15;
#else
constexpr std::uint64_t kSeeds = 200;
#endif

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

/// Runs schedules of one plan, and tells of faults with their seed.
void run_seeds(const Plan& plan, std::uint64_t first, std::uint64_t count) {
  System system;
  if (const std::uint64_t only = from_environment("TROUPE_SIM_SEED", 0)) first = only, count = 1;
  std::map<Code, int> outcomes;
  std::size_t calls = 0;
  int drains = 0;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    const Schedule run(seed, plan, *system.system);
    for (const std::string& fault : run.faults())
      FAIL_CHECK("seed " << seed << " (replay it with TROUPE_SIM_SEED=" << seed << "): " << fault);
    for (const Call& call : run.calls())
      if (call.kind != CallKind::kOneWay) ++outcomes[call.code];
    calls += run.calls().size();
    drains += run.drains();
  }
  MESSAGE(count << " schedules from seed " << first << ", " << calls << " calls, " << drains
                << " nodes have left in order");
  for (const auto& [code, number] : outcomes) MESSAGE(number << " calls ended with " << to_string(code));
  // The runs have met what they are for.
  if (count < 10) return;
  for (const Code code : {Code::kOk, Code::kNotFound, Code::kUnavailable, Code::kDeadlineExceeded})
    CHECK(outcomes[code] > 0);
  CHECK(drains > 0);
}

}  // namespace

TEST_CASE("fifty nodes that come, go, die, stall and are cut off: every call ends once, and truly") {
  run_seeds({.nodes = 50, .actions = 60}, from_environment("TROUPE_SIM_FIRST", 1),
            from_environment("TROUPE_SIM_COUNT", kSeeds));
}

TEST_CASE("five nodes with a secret, in longer schedules") {
  run_seeds({.nodes = 5, .actions = 200, .secret = "a secret that only tests know"}, 1, kSeeds / 5);
}

TEST_CASE("what the checker is not told of it notices") {
  System system;
  std::size_t faults = 0;
  for (std::uint64_t seed = 1; seed <= 5; ++seed)
    faults +=
        Schedule(seed, {.nodes = 5, .actions = 100, .hidden_loss = 0.02}, *system.system).faults().size();
  CHECK(faults > 0);
}

TEST_CASE("what is done wrong with calls, streams, objects, barriers and drains the checker finds") {
  System system;
  const std::pair<Planted, std::string> faults[] = {{Planted::kNothing, ""},
                                                    {Planted::kRunsTwice, "carried out more than once"},
                                                    {Planted::kLosesItem, "items of its stream were lost"},
                                                    {Planted::kKeepsObject, "though nobody refers to it"},
                                                    {Planted::kOpensEarly, "let go with"},
                                                    {Planted::kBreaksOff, "UNAVAILABLE without a reason"}};
  for (const auto& [planted, words] : faults) {
    CAPTURE(words);
    bool found = false;
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      const Schedule run(seed, {.nodes = 5, .actions = 100, .planted = planted}, *system.system);
      for (const std::string& fault : run.faults()) found = found || fault.find(words) != std::string::npos;
    }
    CHECK(found == (planted != Planted::kNothing));
  }
}

TEST_CASE("a seed gives the same run again, another seed another") {
  System system;
  std::set<std::uint64_t> hashes;
  for (std::uint64_t seed = 1001; seed <= 1005; ++seed) {
    CAPTURE(seed);
    const Plan plan{.nodes = 50, .actions = 60};
    const std::uint64_t once = Schedule(seed, plan, *system.system).hash();
    const std::uint64_t again = Schedule(seed, plan, *system.system).hash();
    CHECK(once == again);
    hashes.insert(once);
  }
  CHECK(hashes.size() == 5);
}
