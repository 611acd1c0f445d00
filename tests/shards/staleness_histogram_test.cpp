#include <troupe/shards/staleness_histogram.hpp>

#include "support.hpp"

namespace troupe::shards {
namespace {

TEST_CASE("an empty histogram answers zeros") {
  const StalenessHistogram histogram;
  CHECK(histogram.total() == 0);
  CHECK(histogram.mean() == 0);
  CHECK(histogram.percentile(0.5) == 0);
}

TEST_CASE("counts are exact, then one bucket") {
  StalenessHistogram histogram;
  for (std::uint64_t s = 0; s < 100; ++s) histogram.add(s);
  CHECK(histogram.percentile(0) == 0);
  CHECK(histogram.percentile(0.5) == 49);
  CHECK(histogram.percentile(0.99) == 98);
  CHECK(histogram.percentile(1) == 99);
  CHECK(histogram.mean() == doctest::Approx(49.5));
  histogram.add(1023);
  histogram.add(1024);
  histogram.add(5000);
  CHECK(histogram.counts()[1023] == 1);
  CHECK(histogram.counts()[1024] == 2);
  CHECK(histogram.maximum() == 5000);
  CHECK(histogram.percentile(1) == 5000);
  CHECK(histogram.total() == 103);
}

TEST_CASE("merging adds and restoring repeats") {
  StalenessHistogram a;
  StalenessHistogram b;
  a.add(1);
  b.add(1);
  b.add(2000);
  a.merge(b);
  CHECK(a.counts()[1] == 2);
  CHECK(a.total() == 3);
  CHECK(a.maximum() == 2000);
  const StalenessHistogram copy = StalenessHistogram::restore(a.counts(), a.sum(), a.maximum());
  CHECK(copy.total() == a.total());
  CHECK(copy.mean() == a.mean());
  CHECK(copy.percentile(1) == 2000);
  CHECK(std::equal(copy.counts().begin(), copy.counts().end(), a.counts().begin()));
}

}  // namespace
}  // namespace troupe::shards
