// Conversations whose bytes are changed on the way do no harm; ./dev fuzz does the rest.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include <doctest/doctest.h>

#include "fuzz/conversation.hpp"
#include "support/seed.hpp"

namespace troupe::rpc::conversation {

TEST_CASE("conversations that nobody touches go through, over each way") {
  for (const Kind kind : kKinds) {
    CAPTURE(std::string(name_of(kind)));
    const Reached reached = converse(kind, {});
    CHECK(reached.met);
    CHECK(reached.answered == kCalls - 1);  // one has no such method
    CHECK(reached.failed == 1);
    CHECK(reached.items == kItems);
  }
}

TEST_CASE("conversations in which receives end anywhere go through as well") {
  for (const Kind kind : {Kind::kMeeting, Kind::kTcp}) {
    CAPTURE(std::string(name_of(kind)));
    const std::vector<Edit> edits(300, {3, Edit::What::kShort, 0});
    const Reached reached = converse(kind, write_edits(edits));
    CHECK(reached.answered == kCalls - 1);
    CHECK(reached.changed > 20);
  }
}

TEST_CASE("conversations with what was found once, and with each seed, do no harm") {
  for (const Kind kind : kKinds) {
    int changed = 0;
    for (const auto& entry :
         std::filesystem::directory_iterator(std::string(TROUPE_CORPUS) + "/" + name_of(kind))) {
      CAPTURE(entry.path().string());
      std::ifstream file(entry.path(), std::ios::binary);
      const std::vector<std::uint8_t> bytes(std::istreambuf_iterator<char>(file), {});
      changed += converse(kind, bytes).changed;
    }
    CHECK_MESSAGE(changed > 10, name_of(kind));
  }
}

TEST_CASE("conversations with changes at random places do no harm") {
  std::mt19937_64 random(test::test_seed());
  for (const Kind kind : kKinds) {
    CAPTURE(std::string(name_of(kind)));
    int changed = 0, came_through = 0;
    for (int round = 0; round < 60; ++round) {
      std::vector<Edit> edits;
      for (auto count = 1 + random() % 6; count > 0; --count)
        edits.push_back({static_cast<std::uint16_t>((random() & 0xffff) >> random() % 16),
                         static_cast<Edit::What>(random() % 6), static_cast<std::uint8_t>(random())});
      const Reached reached = converse(kind, write_edits(edits));
      changed += reached.changed;
      came_through += reached.answered == kCalls - 1;
    }
    CHECK(changed > 0);
    if (kind != Kind::kRing) CHECK(came_through < 60);  // much of shared memory means nothing at the moment
  }
}

}  // namespace troupe::rpc::conversation
