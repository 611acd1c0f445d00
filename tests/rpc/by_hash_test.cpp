#include <troupe/rpc/by_hash.hpp>

#include <cstdint>
#include <map>

#include <doctest/doctest.h>
#include <troupe/runtime/random.hpp>

using troupe::rpc::detail::ByHash;

TEST_CASE("by hash: what was added is found, whatever the hashes, and nothing else") {
  // Of all bits; of those only that do not tell the place; with so many in one place that they pass the end.
  for (const std::uint64_t mask : {~std::uint64_t{0}, ~std::uint64_t{0} << 20, std::uint64_t{7}}) {
    CAPTURE(mask);
    troupe::Random random(mask);
    std::map<std::uint64_t, int> added;
    ByHash<int> table;
    CHECK(table.find(0) == nullptr);
    for (int i = 0; i < 300; ++i) {
      const std::uint64_t hash = i == 5 ? 0 : random() & mask;
      const auto [place, is_new] = added.try_emplace(hash, i);
      if (is_new) table.add(hash, place->second);
      for (const std::uint64_t absent : {random() & mask, hash + 1, ~hash})
        if (!added.contains(absent)) REQUIRE(table.find(absent) == nullptr);
    }
    for (auto& [hash, value] : added) REQUIRE(table.find(hash) == &value);
  }
}
