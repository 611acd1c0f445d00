// The fuzzer's seeds get as far as they should, and do no harm when they are damaged; ./dev fuzz does the
// rest.
#include <map>
#include <random>
#include <string>

#include <doctest/doctest.h>

#include "fuzz/wire_input.hpp"
#include "support/seed.hpp"

namespace troupe::rpc::fuzz {

TEST_CASE("wire fuzzing: each seed gets through to what it is for") {
  Reached all;
  for (const Seed& seed : wire_seeds()) {
    CAPTURE(seed.name);
    const Reached reached = run_wire_input(seed.bytes);
    CHECK(reached.sessions == (seed.name.starts_with("proof") || seed.name == "refusal" ? 0 : 1));
    CHECK(reached.calls == (seed.name.starts_with("request") || seed.name == "one_way" ? 1 : 0));
    CHECK(reached.replies == (seed.name.starts_with("reply") ? 1 : 0));
    CHECK(reached.items == (seed.name == "stream_items" ? 3 : 0));
    all.values += reached.values;
  }
  CHECK(all.values > 40);
}

TEST_CASE("wire fuzzing: seeds with flipped, lost and doubled bytes do no harm") {
  std::mt19937_64 random(test::test_seed());
  const auto seeds = wire_seeds();
  int survived = 0;
  for (int round = 0; round < 5'000; ++round) {
    auto bytes = seeds[random() % seeds.size()].bytes;
    for (auto changes = 1 + random() % 4; changes > 0 && !bytes.empty(); --changes) {
      const auto at = bytes.begin() + static_cast<std::ptrdiff_t>(random() % bytes.size());
      switch (random() % 4) {
        case 0:
          bytes.erase(at);
          break;
        case 1:
          bytes.insert(at, *at);
          break;
        default:
          *at ^= static_cast<std::uint8_t>(1U << random() % 8);
      }
    }
    const Reached reached = run_wire_input(bytes);
    survived += reached.calls + reached.replies > 0;
  }
  CHECK(survived > 100);  // the damage was not such that everything ended at once
}

}  // namespace troupe::rpc::fuzz
