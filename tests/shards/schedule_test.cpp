// Schedules against PyTorch's, and the step by which a table looks them up.
#include <troupe/shards/schedule.hpp>

#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <vector>

#include "snapshot_support.hpp"
#include "support.hpp"

namespace troupe::shards {
namespace {

using test::embedding_spec;

/// The factors of steps 0 .. count-1 as PyTorch makes them: each rate from the one before, by get_lr() of
/// torch/optim/lr_scheduler.py (2.4). `next` says what the factor of step t, 1 or more, is after `before`.
std::vector<double> chained(std::size_t count, double first,
                            const std::function<double(double t, double before)>& next) {
  std::vector<double> factors{first};
  while (factors.size() < count) factors.push_back(next(static_cast<double>(factors.size()), factors.back()));
  return factors;
}

std::vector<double> linear_lr(std::size_t count, double start, double total) {
  return chained(count, start, [=](double t, double before) {
    if (t > total) return before;
    return before * (1 + (1 - start) / (total * start + (t - 1) * (1 - start)));
  });
}
std::vector<double> step_lr(std::size_t count, double size, double gamma) {
  return chained(count, 1,
                 [=](double t, double before) { return std::fmod(t, size) == 0 ? before * gamma : before; });
}
std::vector<double> exponential_lr(std::size_t count, double gamma) {
  return chained(count, 1, [=](double, double before) { return before * gamma; });
}
/// CosineAnnealingLR with eta_min = least * rate, up to T_max; then as we go on.
std::vector<double> cosine_lr(std::size_t count, double t_max, double least) {
  return chained(count, 1, [=](double t, double before) {
    if (t > t_max) return least;
    return (1 + std::cos(std::numbers::pi * t / t_max)) / (1 + std::cos(std::numbers::pi * (t - 1) / t_max)) *
               (before - least) +
           least;
  });
}
std::vector<double> polynomial_lr(std::size_t count, double total, double power) {
  return chained(count, 1, [=](double t, double before) {
    if (t > total) return before;
    return before * std::pow((1 - t / total) / (1 - (t - 1) / total), power);
  });
}

void check_factors(const Schedule& schedule, const std::vector<double>& expected) {
  for (std::size_t t = 0; t < expected.size(); ++t) {
    CAPTURE(t);
    CHECK(std::abs(double{schedule.at(t)} - expected[t]) <= 1e-6);
  }
}

TEST_CASE("each schedule is PyTorch's of its name") {
  check_factors({}, std::vector<double>(50, 1));
  check_factors({.warm_up = 40, .warm_up_from = 0.25F, .decay = {}}, linear_lr(100, 0.25, 40));
  check_factors({.decay = StepDecay{7, 0.5F}}, step_lr(100, 7, 0.5));
  check_factors({.decay = ExponentialDecay{0.96875F}}, exponential_lr(200, 0.96875));
  check_factors({.decay = CosineDecay{60, 0.125F}}, cosine_lr(100, 60, 0.125));
  check_factors({.decay = CosineDecay{1, 0}}, {1, 0, 0});
  check_factors({.decay = PolynomialDecay{60, 2.5F, 0}}, polynomial_lr(100, 60, 2.5));
  check_factors({.decay = PolynomialDecay{4, 1, 0.5F}}, {1, 0.875, 0.75, 0.625, 0.5, 0.5});
  check_factors({.decay = PolynomialDecay{2, 0, 0.5F}}, {1, 1, 0.5});
}

// Vaswani et al. 2017, equation 3: rate = d^-0.5 * min(step^-0.5, step * warm_up^-1.5), steps counted from 1;
// the largest rate is that of step = warm_up.
TEST_CASE("the inverse square root after a warm-up of as many steps is that of Vaswani et al.") {
  constexpr double kWarm = 40;
  std::vector<double> expected;
  for (double step = 0; step < 500; ++step)
    expected.push_back(std::min(1 / std::sqrt(std::max(step, 1.0)), step * std::pow(kWarm, -1.5)) *
                       std::sqrt(kWarm));
  check_factors({.warm_up = 40, .warm_up_from = 0, .decay = InverseSquareRoot{40}}, expected);
}

TEST_CASE("a warm-up is followed by any decay, which counts from its end") {
  const std::vector<double> warm = linear_lr(20, 0.5, 20);
  const auto after = [&](std::vector<double> decay) {
    decay.insert(decay.begin(), warm.begin(), warm.end());
    return decay;
  };
  const auto with = [](Decay decay) { return Schedule{20, 0.5F, decay}; };
  check_factors(with(StepDecay{5, 0.25F}), after(step_lr(40, 5, 0.25)));
  check_factors(with(ExponentialDecay{0.5F}), after(exponential_lr(40, 0.5)));
  check_factors(with(CosineDecay{30, 0}), after(cosine_lr(60, 30, 0)));
  check_factors(with(PolynomialDecay{30, 2, 0}), after(polynomial_lr(60, 30, 2)));
}

TEST_CASE("a factor is between 0 and 1 however many steps have been made") {
  for (const Decay& decay : {Decay(ConstantRate{}), Decay(StepDecay{3, 0.9F}),
                             Decay(ExponentialDecay{0.999F}), Decay(CosineDecay{1000, 0.1F}),
                             Decay(InverseSquareRoot{1000}), Decay(PolynomialDecay{UINT64_MAX, 3, 0.1F})}) {
    const Schedule schedule{100, 0.1F, decay};
    REQUIRE(schedule.validate().ok());
    for (const std::uint64_t step : {std::uint64_t{0}, std::uint64_t{99}, std::uint64_t{100},
                                     std::uint64_t{5000}, std::uint64_t{1} << 53, UINT64_MAX}) {
      CAPTURE(step);
      const float factor = schedule.at(step);
      CHECK(factor >= 0);
      CHECK(factor <= 1);
    }
  }
}

TEST_CASE("what a schedule may not hold is refused by its name") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto refused = [](const Schedule& schedule, const std::string& part) {
    TableSpec spec = embedding_spec(1);
    spec.schedule = schedule;
    const auto valid = spec.validate();
    REQUIRE_FALSE(valid.ok());
    CHECK(valid.error().code == Code::kInvalidArgument);
    INFO(valid.error().message);
    CHECK(valid.error().message.find("table 'entity': schedule's " + part) == 0);
  };
  for (const float bad : {nan, -0.5F, 1.5F}) {
    refused({.warm_up = 1, .warm_up_from = bad, .decay = {}}, "warm_up_from is ");
    refused({.decay = StepDecay{1, bad}}, "factor is ");
    refused({.decay = ExponentialDecay{bad}}, "factor is ");
    refused({.decay = CosineDecay{1, bad}}, "least is ");
    refused({.decay = PolynomialDecay{1, 1, bad}}, "least is ");
  }
  refused({.decay = StepDecay{0, 0.5F}}, "every is 0");
  refused({.decay = CosineDecay{0, 0}}, "steps is 0");
  refused({.decay = InverseSquareRoot{0}}, "steps is 0");
  refused({.decay = PolynomialDecay{0, 1, 0}}, "steps is 0");
  for (const float bad : {nan, -1.0F, std::numeric_limits<float>::infinity()})
    refused({.decay = PolynomialDecay{1, bad, 0}}, "power is ");
}

// ---- Which step it is ---------------------------------------------------------------------------

/// A rate of 1, halved with each step.
TableSpec halving() {
  TableSpec spec = embedding_spec(1, Sgd{.learning_rate = 1});
  spec.initializer = Zeros{};
  spec.schedule.decay = ExponentialDecay{0.5F};
  return spec;
}

const std::vector<std::uint64_t> kKey{1};
const std::vector<float> kDown{-1};

TEST_CASE("a table's step is the number of pushes that it has applied, or the one that the push says") {
  TableShard shard = TableShard::create(halving()).value();
  float expected = 0;
  for (const float rate : {1.0F, 0.5F, 0.25F}) {
    REQUIRE(shard.push({.sequence = shard.version()}, kKey, kDown).ok());
    CHECK(test::pull(shard, kKey)[0] == (expected += rate));
  }
  // All shards of a push step by one rate, whatever else they have applied.
  REQUIRE(shard.push({.sequence = 10, .pulled_version = 3, .step = 1}, kKey, kDown).ok());
  CHECK(test::pull(shard, kKey)[0] == (expected += 0.5F));
  // A repeat changes nothing, also not the step.
  REQUIRE_FALSE(shard.push({.sequence = 10, .step = 0}, kKey, kDown).value().applied);
  REQUIRE(shard.push({.sequence = 11}, kKey, kDown).ok());
  CHECK(test::pull(shard, kKey)[0] == expected + 0.0625F);
}

TEST_CASE("a schedule multiplies what staleness makes of the rate") {
  TableSpec spec = halving();
  spec.step_scaling = StepScaling::kInverseStaleness;
  TableShard shard = TableShard::create(spec).value();
  for (std::uint64_t i = 0; i < 2; ++i)
    REQUIRE(shard.push({.sequence = i, .pulled_version = i}, kKey, kDown).ok());
  REQUIRE(shard.push({.sequence = 2, .pulled_version = 1, .step = 1}, kKey, kDown).ok());
  CHECK(test::pull(shard, kKey)[0] == 1 + 0.5F + 0.5F / 2);
}

TEST_CASE("in rounds the step is the round's number, on shards that had nothing of it, too") {
  TableSpec spec = halving();
  spec.consistency = Synchronous{};
  TableShard shard = TableShard::create(spec).value();
  for (std::uint64_t round = 0; round < 3; ++round) {
    if (round != 1) REQUIRE(shard.keep({.worker = 1, .sequence = round}, kKey, kDown).value());
    REQUIRE(shard
                .carry_out({.number = round + 1,
                            .take = {{{1, round}, 1.0F}},
                            .rate_scale = 1,
                            .forget = {},
                            .left = {}})
                .ok());
  }
  CHECK(test::pull(shard, kKey)[0] == 1.25F);
}

TEST_CASE("after a restore, on any number of shards, the schedule goes on where it was") {
  const std::uint64_t seed = troupe::test::test_seed();
  TableSpec spec = embedding_spec(5, Adagrad{});
  spec.schedule = {.warm_up = 10, .warm_up_from = 0.1F, .decay = CosineDecay{40, 0.01F}};
  const test::TemporaryFolder folder;
  test::Table before(spec, 2);
  before.train(seed, 0, 30);
  const Manifest saved = before.save(folder / "tmp", folder / "a");
  CHECK(read_manifest(folder / "a").value().tables[0] == spec);
  before.train(seed + 1, 30, 30);
  for (const std::uint32_t count : {1U, 2U, 3U}) {
    test::Table after(spec, count);
    after.load(folder / "a");
    after.train(seed + 1, 30, 30);
    CHECK(after.contents() == before.contents());
  }
}

}  // namespace
}  // namespace troupe::shards
