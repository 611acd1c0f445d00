#include <troupe/runtime/histogram.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/runtime/random.hpp>

using namespace troupe;

TEST_CASE("an empty histogram has no values") {
  const Histogram histogram;
  CHECK(histogram.count() == 0);
  CHECK(histogram.mean() == 0.0);
  CHECK(histogram.percentile(50) == 0);
  CHECK(histogram.min() == 0);
  CHECK(histogram.max() == 0);
}

TEST_CASE("small values are exact") {
  Histogram histogram;
  for (std::uint64_t value = 0; value < 64; ++value) histogram.record(value);
  CHECK(histogram.percentile(50) == 31);
  CHECK(histogram.percentile(0) == 0);
  CHECK(histogram.percentile(100) == 63);
  CHECK(histogram.mean() == doctest::Approx(31.5));
}

TEST_CASE("percentiles of any values are within 1.6 % of those of the sorted list") {
  Random random(11);
  Histogram histogram;
  std::vector<std::uint64_t> values;
  for (int i = 0; i < 20'000; ++i) {
    values.push_back(random() >> random.below(64));
    histogram.record(values.back());
  }
  std::ranges::sort(values);
  for (const double percent : {1.0, 10.0, 50.0, 90.0, 99.0, 99.9}) {
    const auto rank = static_cast<std::size_t>(std::ceil(percent / 100 * 20'000));
    const auto exact = static_cast<double>(values[rank - 1]);
    CHECK(std::abs(static_cast<double>(histogram.percentile(percent)) - exact) <= 0.016 * exact);
  }
  CHECK(histogram.min() == values.front());
  CHECK(histogram.max() == values.back());
}

TEST_CASE("buckets join without gaps and hold what was recorded") {
  Histogram histogram;
  for (std::uint64_t value = 0; value < 5000; ++value) histogram.record(value);
  histogram.record(UINT64_MAX);
  std::uint64_t next = 0;
  std::uint64_t count = 0;
  for (const Histogram::Bucket& bucket : histogram.buckets()) {
    if (bucket.high != UINT64_MAX) {
      CHECK(bucket.low == next);
      next = bucket.high + 1;
    }
    count += bucket.count;
  }
  CHECK(count == 5001);
}

TEST_CASE("merging is recording both") {
  Random random(12);
  Histogram a;
  Histogram b;
  Histogram both;
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t value = random.below(1'000'000);
    (i % 3 == 0 ? a : b).record(value);
    both.record(value);
  }
  a.merge(b);
  CHECK(a.serialise() == both.serialise());
}

TEST_CASE("a histogram survives serialising") {
  Histogram histogram;
  CHECK(Histogram::deserialise(histogram.serialise())->count() == 0);
  histogram.record(5);
  histogram.record(123'456, 10);
  const std::vector<std::uint64_t> words = histogram.serialise();
  CHECK(words.size() == 5);
  const Result<Histogram> copy = Histogram::deserialise(words);
  REQUIRE(copy.ok());
  CHECK(copy->count() == 11);
  CHECK(copy->mean() == histogram.mean());
  CHECK(copy->percentile(99) == histogram.percentile(99));
  CHECK(copy->serialise() == words);
}

TEST_CASE("words that are no histogram are refused") {
  Histogram histogram;
  histogram.record(5);
  histogram.record(5000);
  const std::vector<std::uint64_t> good = histogram.serialise();
  CHECK_FALSE(Histogram::deserialise({}));
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const std::uint64_t bad : {std::uint64_t{0}, UINT64_MAX, std::uint64_t{1} << 60}) {
      if (i == 2 && bad != UINT64_MAX) continue;  // the sum may be any number
      std::vector<std::uint64_t> words = good;
      words[i] = bad;
      CAPTURE(i);
      CAPTURE(bad);
      CHECK_FALSE(Histogram::deserialise(words));
    }
  }
  CHECK_FALSE(Histogram::deserialise(std::span(good).first(4)));
}
