#include <troupe/runtime/random.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <set>
#include <vector>

#include <doctest/doctest.h>

using namespace troupe;

TEST_CASE("the same seed gives the same numbers, another seed others") {
  Random a(7);
  Random b(7);
  Random c(8);
  int equal = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t x = a();
    CHECK(x == b());
    if (x == c()) ++equal;
  }
  CHECK(equal == 0);
}

TEST_CASE("below() is uniform and stays below") {
  Random random(1);
  std::array<int, 7> counts{};
  constexpr int kDraws = 70'000;
  for (int i = 0; i < kDraws; ++i) ++counts.at(random.below(7));
  for (const int count : counts) CHECK(std::abs(count - 10'000) < 500);  // 5 standard deviations
  CHECK(random.below(1) == 0);
  // A bound over half of the range: nearly half of the draws are rejected.
  constexpr std::uint64_t kLarge = (std::uint64_t{1} << 63) + 1;
  for (int i = 0; i < 1000; ++i) CHECK(random.below(kLarge) < kLarge);
}

TEST_CASE("between() reaches both ends, also the widest") {
  Random random(2);
  std::set<std::int64_t> seen;
  for (int i = 0; i < 200; ++i) seen.insert(random.between(-2, 2));
  CHECK(seen == std::set<std::int64_t>{-2, -1, 0, 1, 2});
  for (int i = 0; i < 100; ++i) static_cast<void>(random.between(INT64_MIN, INT64_MAX));
  CHECK(random.between(INT64_MAX, INT64_MAX) == INT64_MAX);
}

TEST_CASE("uniform and normal numbers have their moments") {
  Random random(3);
  constexpr int kDraws = 100'000;
  double uniform_sum = 0.0;
  double normal_sum = 0.0;
  double normal_squares = 0.0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = random.uniform();
    const float f = random.uniform_float();
    REQUIRE(u >= 0.0);
    REQUIRE(u < 1.0);
    REQUIRE(f >= 0.0F);
    REQUIRE(f < 1.0F);
    uniform_sum += u;
    const double n = random.normal();
    normal_sum += n;
    normal_squares += n * n;
  }
  CHECK(uniform_sum / kDraws == doctest::Approx(0.5).epsilon(0.01));
  CHECK(std::abs(normal_sum / kDraws) < 0.02);
  CHECK(normal_squares / kDraws == doctest::Approx(1.0).epsilon(0.02));
}

TEST_CASE("split streams differ from each other and from their parent; by key they repeat") {
  Random parent(5);
  Random first = parent.split();
  Random second = parent.split();
  const Random& state = parent;
  Random keyed = state.split(3);
  Random again = state.split(3);
  Random other = state.split(4);
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 1000; ++i) {
    for (Random* random : {&parent, &first, &second, &keyed, &other}) seen.insert((*random)());
    CHECK(again() != 0);
  }
  CHECK(seen.size() == 5000);
  CHECK(state.split(3)() == Random(state).split(3)());
}

TEST_CASE("shuffle makes permutations, all of them") {
  Random random(6);
  std::set<std::vector<int>> seen;
  for (int i = 0; i < 500; ++i) {
    std::vector<int> items{1, 2, 3, 4};
    random.shuffle(std::span(items));
    seen.insert(items);
  }
  CHECK(seen.size() == 24);
}
