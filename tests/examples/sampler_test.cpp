#include "wordnet/sampler.hpp"

#include <doctest/doctest.h>

#include <map>
#include <set>
#include <tuple>

#include "wordnet/batch_plan.hpp"

namespace troupe::wordnet {
namespace {

std::vector<Triple> some_triples() {
  std::vector<Triple> triples;
  for (std::uint32_t i = 0; i < 37; ++i) triples.push_back({i, i % 3, (i * 7 + 1) % 40});
  return triples;
}

bool same(const Batch& a, const Batch& b) {
  return a.heads == b.heads && a.relations == b.relations && a.tails == b.tails && a.negatives == b.negatives;
}

TEST_CASE("a batch is a function of seed, epoch and index, in whatever order it is asked for") {
  const std::vector<Triple> triples = some_triples();
  const Sampler sampler(triples, 40, 3, 16, 8, 5);
  const Sampler twin(triples, 40, 3, 16, 8, 5);
  Batch expected;
  Batch found;
  for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
    for (std::uint64_t index = sampler.batches_per_epoch(); index-- > 0;) {
      sampler.sample(epoch, index, expected);
      twin.sample(2, 0, found);  // another batch in between
      twin.sample(epoch, index, found);
      CHECK(same(expected, found));
    }
  }
}

TEST_CASE("another seed, epoch or index makes another batch") {
  const std::vector<Triple> triples = some_triples();
  Batch base;
  Batch other;
  const Sampler sampler(triples, 40, 3, 16, 8, 5);
  sampler.sample(1, 0, base);
  sampler.sample(2, 0, other);
  CHECK(base.heads != other.heads);
  CHECK(base.negatives != other.negatives);
  sampler.sample(1, 1, other);
  CHECK(base.negatives != other.negatives);
  Sampler(triples, 40, 3, 16, 8, 6).sample(1, 0, other);
  CHECK(base.heads != other.heads);
}

TEST_CASE("an epoch holds every triple once in each direction") {
  const std::vector<Triple> triples = some_triples();
  const Sampler sampler(triples, 40, 3, 16, 8, 5);
  CHECK(sampler.examples_per_epoch() == 74);
  CHECK(sampler.batches_per_epoch() == 5);
  std::map<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>, int> seen;
  Batch batch;
  for (std::uint64_t index = 0; index < 5; ++index) {
    sampler.sample(3, index, batch);
    CHECK(batch.size() == (index < 4 ? 16 : 10));
    CHECK(batch.negatives.size() == 8);
    for (std::size_t i = 0; i < batch.size(); ++i) {
      ++seen[{batch.heads[i], batch.relations[i], batch.tails[i]}];
    }
    for (const std::uint32_t entity : batch.negatives) CHECK(entity < 40);
  }
  CHECK(seen.size() == 74);
  for (const Triple& triple : triples) {
    CHECK(seen[{triple.head, triple.relation, triple.tail}] == 1);
    CHECK(seen[{triple.tail, triple.relation + 3, triple.head}] == 1);
  }
}

TEST_CASE("negatives are spread evenly over the entities") {
  const std::vector<Triple> triples = some_triples();
  const Sampler sampler(triples, 10, 3, 74, 100000, 5);
  Batch batch;
  sampler.sample(0, 0, batch);
  std::vector<int> counts(10);
  for (const std::uint32_t entity : batch.negatives) ++counts[entity];
  for (const int count : counts) CHECK(count == doctest::Approx(10000).epsilon(0.05));
}

TEST_CASE("a plan names each row once, candidates first, and finds them again") {
  const Batch batch{
      .heads = {7, 1, 7}, .relations = {0, 4, 0}, .tails = {2, 7, 2}, .negatives = {3, 2, 3, 9}};
  BatchPlanner planner(10, 5);
  BatchPlan plan;
  for (int repetition = 0; repetition < 2; ++repetition) {  // the second reuses the memory of the first
    planner.make(batch, plan);
    CHECK(plan.entity_keys == std::vector<std::uint64_t>{2, 7, 3, 9, 1});
    CHECK(plan.candidate_count == 4);
    CHECK(plan.relation_keys == std::vector<std::uint64_t>{0, 4});
    CHECK(plan.tail_rows == std::vector<std::uint32_t>{0, 1, 0});
    CHECK(plan.head_rows == std::vector<std::uint32_t>{1, 4, 1});
    CHECK(plan.relation_rows == std::vector<std::uint32_t>{0, 1, 0});
  }
}

}  // namespace
}  // namespace troupe::wordnet
