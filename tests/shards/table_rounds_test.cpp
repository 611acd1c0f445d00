// Shards of a table in rounds: what they make of pushes and orders is what one model makes of whole batches.
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include <troupe/shards/clock_policy.hpp>
#include <troupe/shards/table_shard.hpp>

#include "reference_table.hpp"
#include "support.hpp"

namespace troupe::shards {
namespace {

struct Push {
  std::vector<std::uint64_t> keys;
  std::vector<float> gradients;
  std::uint64_t samples = 1;
};

/// Workers at random speeds, two shards that hear of orders at different times and more than once, and a
/// reference that makes each step at once, from the pushes of whom the order names.
class Training {
 public:
  Training(std::uint64_t seed, const TableSpec& spec)
      : random_(seed), spec_(spec), policy_(spec.consistency), reference_(spec) {
    const SlotMap map = SlotMap::balanced(spec.slots, 2);
    for (std::uint32_t i = 0; i < 2; ++i) {
      shards_.push_back(TableShard::create(spec, map.slots_of(i)).value());
      slots_.push_back(map.slots_of(i));
    }
  }

  void run(int events) {
    for (int i = 0; i < events; ++i) {
      const std::uint64_t place = random_() % 4;
      const std::uint64_t worker = 1 + place + 4 * lives_[place];  // who comes again is another
      const auto at = clocks_.find(worker);
      if (random_() % 4 == 0) {
        hear();
      } else if (at == clocks_.end()) {
        clocks_[worker] = policy_.join(worker);
      } else if (random_() % 40 == 0) {
        policy_.leave(worker);
        clocks_.erase(worker);
        ++lives_[place];
      } else if (!busy_.contains(worker)) {
        busy_.insert(worker);
        REQUIRE(policy_.wait(worker, at->second, [this, worker] { push(worker); }).ok());
      }
    }
    while (policy_.order() != nullptr) hear();
    check();
  }
  std::uint64_t steps() const { return steps_; }

 private:
  void push(std::uint64_t worker) {
    const std::uint64_t sequence = sequence_[worker]++;
    Push push{test::random_keys(random_, 1 + random_() % 20, 60), {}, 1 + random_() % 9};
    push.gradients = test::random_floats(random_, push.keys.size() * spec_.dim);
    for (std::size_t shard = 0; shard < 2; ++shard) {
      Push part;
      for (std::size_t i = 0; i < push.keys.size(); ++i) {
        if (!slots_[shard].contains(slot_of(spec_, push.keys[i]))) continue;
        part.keys.push_back(push.keys[i]);
        const auto from = push.gradients.begin() + static_cast<std::ptrdiff_t>(i * spec_.dim);
        part.gradients.insert(part.gradients.end(), from, from + static_cast<std::ptrdiff_t>(spec_.dim));
      }
      for (int repeat = 0; repeat < 2 && !part.keys.empty(); ++repeat) {
        const auto kept =
            shards_[shard].keep({.worker = worker, .sequence = sequence}, part.keys, part.gradients);
        REQUIRE(kept.ok());
        CHECK(*kept);
      }
    }
    const PushName name{worker, sequence};
    const std::uint64_t clock = clocks_.at(worker);
    const std::uint64_t samples = push.samples;
    pushes_[name] = std::move(push);
    REQUIRE(policy_
                .offer(name, clock, samples,
                       [this, worker](const Verdict& verdict) {
                         if (!clocks_.contains(worker)) return;
                         clocks_[worker] = verdict.next_clock;
                         busy_.erase(worker);
                       })
                .ok());
  }

  /// One of the shards that have not carried out the order does, or one that has is told again.
  void hear() {
    if (policy_.order() == nullptr) return;
    const StepOrder order = *policy_.order();
    TableShard& shard = shards_[random_() % 2];
    REQUIRE(shard.carry_out(order).ok());
    if (shards_[0].order_number() != order.number || shards_[1].order_number() != order.number) return;
    step(order);
    policy_.carried_out();
  }

  void step(const StepOrder& order) {
    if (order.take.empty()) return;
    ++steps_;
    std::vector<std::uint64_t> keys;
    std::vector<float> gradients;
    double samples = 0;
    for (const auto& part : order.take) samples += static_cast<double>(pushes_.at(part.push).samples);
    for (const auto& part : order.take) {
      const Push& push = pushes_.at(part.push);
      keys.insert(keys.end(), push.keys.begin(), push.keys.end());
      const auto weight = static_cast<float>(static_cast<double>(push.samples) / samples);
      for (const float gradient : push.gradients) gradients.push_back(gradient * weight);
    }
    reference_.push(keys, gradients, static_cast<double>(order.rate_scale));
  }

  void check() {
    for (std::uint64_t key = 0; key < 60; ++key) {
      TableShard& shard = shards_[slots_[0].contains(slot_of(spec_, key)) ? 0 : 1];
      std::vector<float> row(spec_.dim);
      REQUIRE(shard.peek(std::span(&key, 1), row.data()).ok());
      const auto expected = reference_.pull({key});
      for (std::size_t j = 0; j < row.size(); ++j)
        REQUIRE(std::abs(static_cast<double>(row[j]) - expected[j]) <= 1e-3 * (1 + std::abs(expected[j])));
    }
    CHECK(shards_[0].version() == steps_);
    CHECK(shards_[1].version() == steps_);
  }

  std::mt19937_64 random_;
  TableSpec spec_;
  ClockPolicy policy_;
  test::ReferenceTable reference_;
  std::vector<TableShard> shards_;
  std::vector<SlotSet> slots_;
  std::map<std::uint64_t, std::uint64_t> clocks_, sequence_;
  std::set<std::uint64_t> busy_;
  std::map<PushName, Push> pushes_;
  std::array<std::uint64_t, 4> lives_{};
  std::uint64_t steps_ = 0;
};

TEST_CASE("tables in rounds are trained as one model is with whole batches") {
  const std::uint64_t seed = troupe::test::test_seed();
  for (const Consistency& mode :
       {Consistency(Synchronous{}), Consistency(KOfN{2, LatePushes::kDrop}),
        Consistency(KOfN{2, LatePushes::kScale}), Consistency(KOfN{1, LatePushes::kDrop})}) {
    for (const Optimizer& optimizer : {Optimizer(Sgd{}), Optimizer(Adagrad{}), Optimizer(Adam{})}) {
      TableSpec spec = test::embedding_spec(3, optimizer);
      spec.consistency = mode;
      Training training(seed, spec);
      training.run(4000);
      CHECK(training.steps() > 40);
    }
  }
}

TEST_CASE("a push that is kept is checked as one that is applied, and changes nothing until it is ordered") {
  TableSpec spec = test::embedding_spec(2);
  spec.consistency = Synchronous{};
  TableShard shard = TableShard::create(spec).value();
  const std::vector<std::uint64_t> keys{1, 2};
  const auto before = test::pull(shard, keys);
  const auto code = [&](std::uint64_t sequence, const std::vector<float>& gradients) {
    return shard.keep({.worker = 1, .sequence = sequence}, keys, gradients).error().code;
  };
  CHECK(code(0, {1, 2, 3}) == Code::kInvalidArgument);
  CHECK(code(0, {1, 2, NAN, 4}) == Code::kInvalidArgument);
  REQUIRE(shard.keep({.worker = 1, .sequence = 0}, keys, std::vector<float>{1, 2, 3, 4}).value());
  REQUIRE(shard.keep({.worker = 1, .sequence = 1}, keys, std::vector<float>{1, 2, 3, 4}).value());
  CHECK(code(2, {1, 2, 3, 4}) == Code::kResourceExhausted);  // more than a round needs
  CHECK(test::pull(shard, keys) == before);
  StepOrder order{.number = 1, .take = {{{1, 0}, 1.0F}}, .rate_scale = 1, .forget = {}, .left = {}};
  REQUIRE(shard.carry_out(order).ok());
  const auto after = test::pull(shard, keys);
  CHECK(after != before);
  REQUIRE(shard.carry_out(order).ok());  // again
  CHECK(test::pull(shard, keys) == after);
  CHECK_FALSE(shard.keep({.worker = 1, .sequence = 0}, keys, std::vector<float>{1, 2, 3, 4}).value());
  // What is forgotten is not applied, and may be replaced.
  order = {.number = 2, .take = {}, .rate_scale = 1, .forget = {{1, 1}}, .left = {}};
  REQUIRE(shard.carry_out(order).ok());
  order = {.number = 3, .take = {{{1, 1}, 1.0F}}, .rate_scale = 1, .forget = {}, .left = {1}};
  REQUIRE(shard.carry_out(order).ok());
  CHECK(test::pull(shard, keys) == after);
}

}  // namespace
}  // namespace troupe::shards
