#include <troupe/runtime/task.hpp>

#include <array>
#include <memory>
#include <vector>

#include <doctest/doctest.h>

using namespace troupe;

namespace {

/// Counts how many of it live.
struct Counted {
  explicit Counted(int& n) : alive(&n) { ++*alive; }
  Counted(const Counted& other) : alive(other.alive) { ++*alive; }
  Counted(Counted&& other) noexcept : alive(other.alive) { ++*alive; }
  Counted& operator=(const Counted&) = delete;
  ~Counted() { --*alive; }
  int* alive;
};

}  // namespace

TEST_CASE("a function may own what cannot be copied") {
  UniqueFunction<int(int)> add = [five = std::make_unique<int>(5)](int x) { return x + *five; };
  UniqueFunction<int(int)> moved = std::move(add);
  CHECK_FALSE(static_cast<bool>(add));  // NOLINT(bugprone-use-after-move)
  CHECK(moved(2) == 7);
}

TEST_CASE("captures are destroyed exactly once, inline and on the heap") {
  int alive = 0;
  {
    UniqueFunction<int()> small = [c = Counted(alive)] { return *c.alive; };
    UniqueFunction<int()> large = [c = Counted(alive), bulk = std::array<char, 100>{}] {
      return *c.alive + bulk[0];
    };
    CHECK(small() == 2);
    CHECK(large() == 2);
    UniqueFunction<int()> moved = std::move(large);
    CHECK(moved() == 2);
    small = std::move(moved);
    CHECK(alive == 1);
    small = nullptr;
    CHECK(alive == 0);
  }
  CHECK(alive == 0);
}

TEST_CASE("a function keeps its state between calls, and arguments are passed by what they are") {
  UniqueFunction<int()> counter = [n = 0]() mutable { return ++n; };
  CHECK(counter() == 1);
  CHECK(counter() == 2);
  UniqueFunction<void(std::unique_ptr<int>, int&)> take = [](std::unique_ptr<int> in, int& out) {
    out = *in;
  };
  int out = 0;
  take(std::make_unique<int>(9), out);
  CHECK(out == 9);
}
