#include "wordnet/reference_trainer.hpp"

#include <doctest/doctest.h>

#include <atomic>

#include "examples/one_blas_thread.hpp"
#include "wordnet/initial_rows.hpp"

namespace troupe::wordnet {
namespace {

// `count` entities on a circle; relation k joins each to the one k + 1 steps on. A model that learns the
// steps as rotations knows the held-out triples.
KnowledgeGraph circle(std::uint32_t count, std::uint32_t kinds) {
  KnowledgeGraph graph;
  for (std::uint32_t i = 0; i < count; ++i) graph.entities.push_back("e" + std::to_string(i));
  for (std::uint32_t k = 0; k < kinds; ++k) {
    graph.relations.push_back("plus" + std::to_string(k + 1));
    for (std::uint32_t i = 0; i < count; ++i) graph.train.push_back({i, k, (i + k + 1) % count});
  }
  return graph;
}

HyperParameters small() {
  HyperParameters parameters;
  parameters.dimension = 16;
  parameters.batch_size = 32;
  parameters.negatives = 16;
  parameters.initial_scale = 0.1F;
  parameters.n3 = 0.01F;
  return parameters;
}

RankingMetrics train(const KnowledgeGraph& graph, std::size_t epochs, std::size_t threads) {
  ReferenceTrainer trainer(graph, small());
  for (std::uint64_t epoch = 1; epoch <= epochs; ++epoch) trainer.run_epoch(epoch, threads);
  const KnownAnswers known(graph);
  return metrics(evaluate_in_parallel(trainer.rows().view(), known, graph.test, threads));
}

TEST_CASE_FIXTURE(OneBlasThread, "training on a graph with structure predicts held-out triples") {
  KnowledgeGraph graph = circle(60, 8);
  REQUIRE(hold_out(graph, 0, 48, 3).ok());
  CHECK(train(graph, 0, 1).mrr < 0.15);
  CHECK(train(graph, 100, 1).mrr > 0.8);
}

TEST_CASE_FIXTURE(OneBlasThread, "so does training on two threads at once") {
  KnowledgeGraph graph = circle(60, 8);
  REQUIRE(hold_out(graph, 0, 48, 3).ok());
  CHECK(train(graph, 100, 2).mrr > 0.8);
}

TEST_CASE_FIXTURE(OneBlasThread, "training on one thread is reproducible") {
  const KnowledgeGraph graph = circle(40, 3);
  ReferenceTrainer first(graph, small());
  ReferenceTrainer second(graph, small());
  const EpochStats a = first.run_epoch(1, 1);
  const EpochStats b = second.run_epoch(1, 1);
  CHECK(a.loss == b.loss);
  CHECK(first.rows().entities == second.rows().entities);
  CHECK(first.rows().relations == second.rows().relations);
}

TEST_CASE_FIXTURE(OneBlasThread, "an epoch trains on every example once and reports its progress") {
  const KnowledgeGraph graph = circle(40, 3);
  ReferenceTrainer trainer(graph, small());
  std::atomic<std::uint64_t> calls{0};
  std::atomic<std::uint64_t> most{0};
  const EpochStats stats = trainer.run_epoch(1, 2, [&](std::uint64_t done) {
    ++calls;
    std::uint64_t before = most;
    while (before < done && !most.compare_exchange_weak(before, done)) {
    }
  });
  CHECK(stats.examples == 240);
  CHECK(calls == 8);
  CHECK(most == 240);
  CHECK(stats.loss > 0);
}

TEST_CASE_FIXTURE(OneBlasThread, "a first row is a function of seed and key, with the spread asked for") {
  std::vector<float> row(20001);
  std::vector<float> again(20001);
  initial_row(1, 5, 0.5F, row);
  initial_row(1, 5, 0.5F, again);
  CHECK(row == again);
  initial_row(1, 6, 0.5F, again);
  CHECK(row != again);
  double sum = 0;
  double squares = 0;
  for (const float value : row) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  CHECK(std::abs(sum / 20001) < 0.02);
  CHECK(squares / 20001 == doctest::Approx(0.25).epsilon(0.05));
}

}  // namespace
}  // namespace troupe::wordnet
