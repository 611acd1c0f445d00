#include <troupe/shards/sequence_window.hpp>

#include <set>

#include "support.hpp"

namespace troupe::shards {
namespace {

using Seen = SequenceWindow::Seen;

TEST_CASE("a number is new until it is marked, in whatever order") {
  SequenceWindow window;
  CHECK(window.look(0) == Seen::kNew);
  for (const std::uint64_t sequence : {5U, 3U, 4U, 70U, 0U, 69U}) {
    CHECK(window.look(sequence) == Seen::kNew);
    window.mark(sequence);
    CHECK(window.look(sequence) == Seen::kApplied);
  }
  CHECK(window.look(1) == Seen::kNew);
  CHECK(window.highest() == 70);
}

TEST_CASE("numbers too far behind are not known") {
  SequenceWindow window;
  window.mark(SequenceWindow::kSize);
  CHECK(window.look(0) == Seen::kTooOld);
  CHECK(window.look(1) == Seen::kNew);
  window.mark(1);
  window.mark(SequenceWindow::kSize + 1);  // takes the bit that 1 had
  CHECK(window.look(1) == Seen::kTooOld);
  CHECK(window.look(2) == Seen::kNew);
}

TEST_CASE("a long jump forgets what lay before it") {
  SequenceWindow window;
  for (std::uint64_t s = 0; s < 100; ++s) window.mark(s);
  window.mark(1'000'000);
  for (std::uint64_t s = 1'000'000 - SequenceWindow::kSize + 1; s < 1'000'000; ++s) {
    REQUIRE(window.look(s) == Seen::kNew);
  }
  window.mark(UINT64_MAX);
  CHECK(window.look(UINT64_MAX) == Seen::kApplied);
  CHECK(window.look(UINT64_MAX - 1) == Seen::kNew);
}

TEST_CASE("the window agrees with a set of all numbers applied") {
  const std::uint64_t seed = troupe::test::test_seed();
  std::mt19937_64 random(seed);
  SequenceWindow window;
  std::set<std::uint64_t> applied;
  std::uint64_t base = 0;
  for (int i = 0; i < 20000; ++i) {
    base += random() % 3;
    if (random() % 2000 == 0) base += random() % 3000;
    const std::uint64_t sequence = base + random() % 1500;
    const std::uint64_t highest = applied.empty() ? 0 : *applied.rbegin();
    const Seen seen = window.look(sequence);
    if (!applied.empty() && sequence + SequenceWindow::kSize <= highest) {
      REQUIRE(seen == Seen::kTooOld);
    } else {
      REQUIRE(seen == (applied.contains(sequence) ? Seen::kApplied : Seen::kNew));
    }
    if (seen == Seen::kNew) {
      window.mark(sequence);
      applied.insert(sequence);
    }
  }
}

TEST_CASE("a restored window is the same and a merged one has both") {
  SequenceWindow a;
  SequenceWindow b;
  for (const std::uint64_t s : {10U, 12U, 900U}) a.mark(s);
  for (const std::uint64_t s : {11U, 12U, 1500U}) b.mark(s);
  CHECK(SequenceWindow::restore(a.highest(), a.words()) == a);
  SequenceWindow both = a;
  both.merge(b);
  CHECK(both.highest() == 1500);
  CHECK(both.look(900) == Seen::kApplied);
  CHECK(both.look(1500) == Seen::kApplied);
  CHECK(both.look(901) == Seen::kNew);
  SequenceWindow other = b;
  other.merge(a);
  CHECK(other == both);
  SequenceWindow empty;
  empty.merge(a);
  CHECK(empty == a);
  a.merge(SequenceWindow{});
  CHECK(empty == a);
}

}  // namespace
}  // namespace troupe::shards
