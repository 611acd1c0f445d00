#include "progress.hpp"

#include <doctest/doctest.h>

#include "rate_window.hpp"

namespace troupe::training {
namespace {
ProgressView training() {
  ProgressView view;
  view.phase = "epoch 3/10";
  view.fraction = 0.5;
  view.seconds_left = 65;
  view.loss = 1.25;
  view.valid = Metric{"mrr", "MRR", 0.5};
  view.staleness_mean = 0.75;
  view.workers = {{"worker-0", 1, true, 30000}, {"worker-1", 1, false, 0}, {"worker-2", 0.4, true, 12000}};
  return view;
}
bool has(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}
}  // namespace

TEST_CASE("one line tells epoch, time left, rates, loss and staleness") {
  CHECK(progress_line(training()) ==
        "epoch 3/10 50 %, about 1:05 left; 42.0 k examples/s (worker-0 30.0 k, worker-1 dead, "
        "worker-2 (40 % speed) 12.0 k); loss 1.250   valid MRR 0.500   staleness 0.75");
}

TEST_CASE("a terminal shows the same on lines of less than 80 columns, one for each worker") {
  const auto lines = progress_lines(training());
  REQUIRE(lines.size() == 5);
  CHECK(has(lines[0], "epoch 3/10"));
  CHECK(has(lines[0], "1:05 left"));
  CHECK(has(lines[1], "42.0 k"));
  CHECK(has(lines[1], "staleness 0.75"));
  CHECK(has(lines[3], "dead"));
  CHECK(has(lines[4], "worker-2 (40 % speed)"));
  for (const std::string& line : lines) {
    std::size_t columns = 0;
    for (const char c : line) columns += (c & 0xC0) != 0x80 ? 1 : 0;
    CHECK_MESSAGE(columns < 80, line);
  }
}

TEST_CASE("many workers do not fill the screen") {
  ProgressView view = training();
  view.workers.assign(100, {"worker", 1, true, 1});
  CHECK(progress_lines(view).size() == 15);
  CHECK(has(progress_lines(view).back(), "88 more"));
}

TEST_CASE("a rate looks back over its window, and needs two points") {
  RateWindow rate(3);
  CHECK(rate.per_second() == 0);
  rate.add(0, 0);
  CHECK(rate.per_second() == 0);
  rate.add(0.01, 1000);  // too soon to say anything
  CHECK(rate.per_second() == 0);
  rate.add(1, 100);
  CHECK(rate.per_second() == doctest::Approx(100));
  for (int second = 2; second <= 10; ++second) rate.add(second, 100 + (second - 1) * 10);
  CHECK(rate.per_second() == doctest::Approx(10));
}

}  // namespace troupe::training
