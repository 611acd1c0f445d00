#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>

#include <doctest/doctest.h>

namespace troupe::test {

/// The seed of a randomised test: that in TROUPE_TEST_SEED, to replay a run, else another one each time. It
/// is printed here and now, because a test that crashes or hangs prints nothing later.
inline std::uint64_t test_seed() {
  std::uint64_t seed = std::random_device{}();
  if (const char* given = std::getenv("TROUPE_TEST_SEED")) {
    char* end = nullptr;
    errno = 0;
    seed = std::strtoull(given, &end, 10);
    REQUIRE_MESSAGE((end != given && *end == '\0' && errno == 0),
                    "TROUPE_TEST_SEED is no number: ", std::string(given));
  }
  MESSAGE("seed ", seed, "; TROUPE_TEST_SEED=", seed, " replays it");
  return seed;
}

}  // namespace troupe::test
