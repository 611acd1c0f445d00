#include <random>
#include <set>
#include <string>

#include <doctest/doctest.h>

#include "weights/tree.hpp"

using troupe::training::WeightTree;

TEST_CASE(
    "a tree of readers: those of the publisher's place are told by it, of another place by their first") {
  WeightTree tree("here", 2);
  CHECK(tree.join(1, "here", true).id == 0);
  CHECK(tree.join(2, "here", true).same_place);
  CHECK(tree.join(10, "a", true).id == 0);
  CHECK(tree.join(11, "a", true).id == 10);
  CHECK(tree.join(12, "a", true).same_place);
  CHECK(tree.join(20, "b", true).id == 0);
  // The publisher has sent to two other places; the third is sent to by the first of these.
  CHECK(tree.join(30, "c", true).id == 10);
  CHECK_FALSE(tree.join(40, "d", true).same_place);
  CHECK(tree.size() == 8);
  CHECK(tree.direct() == 4);
}

TEST_CASE("a tree of readers: who cannot serve is nobody's parent") {
  WeightTree tree("here", 1);
  CHECK(tree.join(1, "a", false).id == 0);
  CHECK(tree.join(2, "a", false).id == 0);  // more than it has room for, since there is nobody else
  CHECK(tree.join(3, "a", true).id == 0);
  CHECK(tree.join(4, "a", false).id == 3);
}

TEST_CASE("a tree of readers: another parent is found for who avoids one, and its place follows") {
  WeightTree tree("here", 4);
  tree.join(1, "a", true);
  CHECK(tree.join(2, "a", true).id == 1);
  CHECK(tree.join(2, "a", true, {1}).id == 0);
  CHECK(tree.join(3, "a", true).id == 2);
  CHECK(tree.join(1, "a", true).id == 2);  // who was avoided, too
  tree.leave(2);
  CHECK(tree.join(3, "a", true).id == 0);
  CHECK(tree.join(1, "a", true).id == 3);
}

TEST_CASE("a tree of readers: complaints do not make the publisher send to more places") {
  WeightTree tree("here", 2);
  for (std::uint64_t place = 0; place < 40; ++place) {
    const std::uint64_t first = 2 * place + 1, second = first + 1;
    tree.join(first, "p" + std::to_string(place), true);
    tree.join(second, "p" + std::to_string(place), true, {first});
    if (place % 2 == 0) tree.join(first, "p" + std::to_string(place), true);
  }
  CHECK(tree.direct() <= 2);
  CHECK(tree.size() == 80);
}

TEST_CASE("a tree of readers: who has complained of many gets one that is left, at last the publisher") {
  WeightTree tree("here", 3);
  for (std::uint64_t id = 1; id <= 3; ++id) tree.join(id, "p" + std::to_string(id), true);
  std::set<std::uint64_t> avoid;
  for (int i = 0; i < 3; ++i) {
    const auto parent = tree.join(9, "p9", true, avoid);
    CHECK(parent.id != 0);
    CHECK(avoid.insert(parent.id).second);
  }
  CHECK(tree.join(9, "p9", true, avoid).id == 0);
}

TEST_CASE("a tree of readers: a head that no longer serves is one no more") {
  WeightTree tree("here", 3);
  tree.join(1, "a", true);
  CHECK(tree.join(2, "a", true).id == 1);
  tree.join(1, "a", false);
  CHECK(tree.join(3, "a", true).id != 1);
}

TEST_CASE("a tree of readers: whoever comes, goes and complains, from each the publisher is reached") {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    std::mt19937_64 random(seed);
    WeightTree tree("p0", 1 + random() % 3);
    std::map<std::uint64_t, std::uint64_t> parents;  // as the readers know them
    const auto reaches = [&](std::uint64_t id) {
      for (std::size_t steps = 0; id != 0 && parents.contains(id); ++steps) {
        if (steps > parents.size()) return false;  // round and round
        id = parents.at(id);
      }
      return true;  // the publisher, or one that has gone, which its children notice
    };
    for (int step = 0; step < 200; ++step) {
      const std::uint64_t id = 1 + random() % 12;
      if (random() % 5 == 0) {
        tree.leave(id);
        parents.erase(id);
        continue;
      }
      std::set<std::uint64_t> avoid;
      while (random() % 3 == 0) avoid.insert(random() % 13);
      const auto parent = tree.join(id, "p" + std::to_string(id % 4), random() % 6 != 0, avoid);
      CHECK_MESSAGE(parent.id != id, "seed " << seed);
      parents[id] = parent.id;
      for (const auto& [each, above] : parents)
        CHECK_MESSAGE(reaches(each), "seed " << seed << ", reader " << each);
    }
    CHECK(tree.size() == parents.size());
  }
}
