// The fuzzer's seeds get as far as they should, and do no harm when they are damaged; ./dev fuzz does the
// rest.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <set>
#include <string>
#include <vector>

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

TEST_CASE("wire fuzzing: what was found once does no harm, and each seed is in the corpus") {
  std::set<std::string> corpus;
  for (const auto& entry : std::filesystem::directory_iterator(TROUPE_CORPUS "/wire")) {
    CAPTURE(entry.path().string());
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<std::uint8_t> bytes(std::istreambuf_iterator<char>(file), {});
    static_cast<void>(run_wire_input(bytes));
    corpus.insert(entry.path().filename().string());
  }
  for (const Seed& seed : wire_seeds()) CHECK_MESSAGE(corpus.contains(seed.name), seed.name);
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
