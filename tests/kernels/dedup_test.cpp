#include "troupe/kernels/dedup.hpp"

#include <unordered_map>

#include "support.hpp"
#include "support/seed.hpp"

using namespace troupe::kernels;

namespace {

void check_batch(Dedup& dedup, const std::vector<std::uint64_t>& keys) {
  std::unordered_map<std::uint64_t, std::uint64_t> places;
  std::vector<std::uint64_t> unique;
  std::vector<std::uint64_t> inverse;
  for (const auto key : keys) {
    const auto [place, is_new] = places.emplace(key, unique.size());
    if (is_new) unique.push_back(key);
    inverse.push_back(place->second);
  }
  const Dedup::Result result = dedup.run(keys);
  CHECK(std::vector(result.unique.begin(), result.unique.end()) == unique);
  CHECK(std::vector(result.inverse.begin(), result.inverse.end()) == inverse);
  // In pieces it is the same.
  dedup.begin(keys.size());
  for (std::size_t at = 0; at < keys.size();) {
    const std::size_t some = std::min(keys.size() - at, 1 + at * 7 % 50);
    dedup.add(std::span(keys).subspan(at, some));
    at += some;
  }
  const Dedup::Result pieces = dedup.result();
  CHECK(std::vector(pieces.unique.begin(), pieces.unique.end()) == unique);
  CHECK(std::vector(pieces.inverse.begin(), pieces.inverse.end()) == inverse);
}

}  // namespace

TEST_CASE("one Dedup used again and again finds unique keys in order of first occurrence") {
  std::mt19937_64 random(troupe::test::test_seed());
  Dedup dedup;
  for (int turn = 0; turn < 300; ++turn) {
    std::vector<std::uint64_t> keys(random() % (turn % 10 == 0 ? 5000 : 100));
    const std::uint64_t distinct = 1 + random() % 3000;
    const std::uint64_t stride = std::uint64_t{1} << (random() % 64);
    for (auto& key : keys) key = (random() % distinct) * stride - 1;  // ~0 is a key like others
    CAPTURE(turn);
    CAPTURE(distinct);
    CAPTURE(stride);
    check_batch(dedup, keys);
  }
}

TEST_CASE("empty, single and all-equal batches are deduplicated") {
  Dedup dedup;
  check_batch(dedup, {});
  check_batch(dedup, {0});
  check_batch(dedup, {~std::uint64_t{0}, ~std::uint64_t{0}});
  check_batch(dedup, std::vector<std::uint64_t>(1000, 7));
  check_batch(dedup, {});
}

TEST_CASE("a Dedup allocates no more once it has seen its largest batch") {
  Dedup dedup;
  std::vector<std::uint64_t> keys(1000);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
  const auto* unique = dedup.run(keys).unique.data();
  const auto* inverse = dedup.run(keys).inverse.data();
  for (std::size_t size = 1; size < keys.size(); size += 37) {
    const Dedup::Result result = dedup.run(std::span(keys).first(size));
    CHECK(result.unique.data() == unique);
    CHECK(result.inverse.data() == inverse);
  }
}
