#include "wordnet/evaluation.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <set>

#include <troupe/runtime/random.hpp>

#include "examples/one_blas_thread.hpp"

namespace troupe::wordnet {
namespace {

constexpr std::size_t kDimension = 6;

KnowledgeGraph random_graph(std::uint32_t entities, std::uint32_t relations, std::size_t triples,
                            Random& random) {
  KnowledgeGraph graph;
  for (std::uint32_t i = 0; i < entities; ++i) graph.entities.push_back("e" + std::to_string(i));
  for (std::uint32_t i = 0; i < relations; ++i) graph.relations.push_back("r" + std::to_string(i));
  std::set<Triple> all;
  while (all.size() < triples) {
    all.insert({static_cast<std::uint32_t>(random.below(entities)),
                static_cast<std::uint32_t>(random.below(relations)),
                static_cast<std::uint32_t>(random.below(entities))});
  }
  std::size_t i = 0;
  for (const Triple& triple : all) {
    auto& part = i % 5 == 0 ? graph.test : i % 5 == 1 ? graph.valid : graph.train;
    part.push_back(triple);
    ++i;
  }
  return graph;
}

// Small whole numbers: every score is exact, so that ties are ties in any order of summation.
ModelRows whole_number_rows(const KnowledgeGraph& graph, Random& random) {
  ModelRows rows{kDimension, {}, {}};
  rows.entities.resize(graph.entity_count() * 2 * kDimension);
  rows.relations.resize(2 * graph.relation_count() * 2 * kDimension);
  for (float& value : rows.entities) value = static_cast<float>(random.below(3)) - 1.0F;
  for (float& value : rows.relations) value = static_cast<float>(random.below(3)) - 1.0F;
  return rows;
}

double score(const ModelRows& rows, std::size_t head, std::size_t relation, std::size_t tail) {
  const auto at = [](const std::vector<float>& from, std::size_t row, std::size_t k) {
    return std::complex<double>(from[row * 2 * kDimension + k], from[row * 2 * kDimension + kDimension + k]);
  };
  double sum = 0;
  for (std::size_t k = 0; k < kDimension; ++k) {
    sum +=
        (at(rows.entities, head, k) * at(rows.relations, relation, k) * std::conj(at(rows.entities, tail, k)))
            .real();
  }
  return sum;
}

// One question, ranked by its definition.
double brute_force_rank(const KnowledgeGraph& graph, const ModelRows& rows, const Triple& triple,
                        bool ask_head) {
  std::set<std::uint32_t> right;
  for (const auto* part : {&graph.train, &graph.valid, &graph.test}) {
    for (const Triple& known : *part) {
      if (known.relation != triple.relation) continue;
      if (ask_head && known.tail == triple.tail) right.insert(known.head);
      if (!ask_head && known.head == triple.head) right.insert(known.tail);
    }
  }
  const std::uint32_t answer = ask_head ? triple.head : triple.tail;
  const std::uint32_t given = ask_head ? triple.tail : triple.head;
  const std::size_t relation = triple.relation + (ask_head ? graph.relation_count() : 0);
  const double answer_score = score(rows, given, relation, answer);
  double best = 1;
  double worst = 1;
  for (std::uint32_t entity = 0; entity < graph.entity_count(); ++entity) {
    if (entity == answer || right.contains(entity)) continue;
    const double other = score(rows, given, relation, entity);
    best += other > answer_score ? 1 : 0;
    worst += other >= answer_score ? 1 : 0;
  }
  return (best + worst) / 2;
}

TEST_CASE_FIXTURE(OneBlasThread,
                  "evaluation agrees with a ranking by definition, ties and known answers included") {
  constexpr std::uint64_t kSeed = 21;
  CAPTURE(kSeed);
  Random random(kSeed);
  const KnowledgeGraph graph = random_graph(60, 2, 1500, random);
  const ModelRows rows = whole_number_rows(graph, random);
  RankingSums expected;
  for (const Triple& triple : graph.test) {
    expected.add_rank(brute_force_rank(graph, rows, triple, false));
    expected.add_rank(brute_force_rank(graph, rows, triple, true));
  }
  const RankingSums found = evaluate(rows.view(), KnownAnswers(graph), graph.test);
  CHECK(found.questions == 600);
  CHECK(found.reciprocal_ranks == doctest::Approx(expected.reciprocal_ranks).epsilon(1e-9));
  CHECK(found.hits_at_1 == expected.hits_at_1);
  CHECK(found.hits_at_3 == expected.hits_at_3);
  CHECK(found.hits_at_10 == expected.hits_at_10);
  CHECK(found.hits_at_1 < found.hits_at_10);  // or the comparison shows nothing
}

TEST_CASE_FIXTURE(OneBlasThread, "more entities than fit in one block are ranked alike") {
  constexpr std::uint64_t kSeed = 22;
  CAPTURE(kSeed);
  Random random(kSeed);
  KnowledgeGraph graph = random_graph(5000, 2, 3000, random);
  graph.test.resize(20);
  const ModelRows rows = whole_number_rows(graph, random);
  RankingSums expected;
  for (const Triple& triple : graph.test) {
    expected.add_rank(brute_force_rank(graph, rows, triple, false));
    expected.add_rank(brute_force_rank(graph, rows, triple, true));
  }
  const RankingSums found = evaluate(rows.view(), KnownAnswers(graph), graph.test);
  CHECK(found.reciprocal_ranks == doctest::Approx(expected.reciprocal_ranks).epsilon(1e-9));
}

TEST_CASE_FIXTURE(OneBlasThread, "the sums of slices add up to the whole's") {
  Random random(23);
  const KnowledgeGraph graph = random_graph(40, 3, 400, random);
  const ModelRows rows = whole_number_rows(graph, random);
  const KnownAnswers known(graph);
  const std::span<const Triple> test(graph.test);
  const RankingSums whole = evaluate(rows.view(), known, test);
  RankingSums sum = evaluate(rows.view(), known, test.first(13));
  sum += evaluate(rows.view(), known, test.subspan(13, 0));
  sum += evaluate(rows.view(), known, test.subspan(13));
  CHECK(sum.questions == whole.questions);
  CHECK(sum.reciprocal_ranks == doctest::Approx(whole.reciprocal_ranks).epsilon(1e-12));
  CHECK(sum.hits_at_10 == whole.hits_at_10);
}

TEST_CASE_FIXTURE(OneBlasThread, "a model that scores all alike gets the mean rank, not the first") {
  Random random(24);
  KnowledgeGraph graph = random_graph(101, 1, 1, random);
  graph.train = graph.test;
  const ModelRows zeros{kDimension, std::vector<float>(101 * 2 * kDimension),
                        std::vector<float>(2 * 2 * kDimension)};
  const RankingSums found = evaluate(zeros.view(), KnownAnswers(graph), graph.test);
  CHECK(found.reciprocal_ranks == doctest::Approx(2 / 51.0));
  CHECK(found.hits_at_10 == 0);
}

TEST_CASE_FIXTURE(OneBlasThread, "a model of NaN ranks last") {
  Random random(25);
  KnowledgeGraph graph = random_graph(101, 1, 1, random);
  graph.train = graph.test;
  const ModelRows broken{kDimension, std::vector<float>(101 * 2 * kDimension, NAN),
                         std::vector<float>(2 * 2 * kDimension, 1.0F)};
  const RankingSums found = evaluate(broken.view(), KnownAnswers(graph), graph.test);
  CHECK(found.reciprocal_ranks == doctest::Approx(2 / 101.0));
}

TEST_CASE_FIXTURE(OneBlasThread, "known answers are those of all three parts, in both directions") {
  KnowledgeGraph graph;
  graph.entities = {"a", "b", "c"};
  graph.relations = {"r", "s"};
  graph.train = {{0, 0, 1}, {0, 1, 2}};
  graph.valid = {{0, 0, 2}};
  graph.test = {{1, 0, 2}, {0, 0, 1}};
  const KnownAnswers known(graph);
  const auto tails = [&](std::uint32_t head, std::uint32_t relation) {
    const std::span<const std::uint32_t> found = known.tails(head, relation);
    return std::vector<std::uint32_t>(found.begin(), found.end());
  };
  CHECK(tails(0, 0) == std::vector<std::uint32_t>{1, 2});
  CHECK(tails(0, 1) == std::vector<std::uint32_t>{2});
  CHECK(tails(2, 2) == std::vector<std::uint32_t>{0, 1});
  CHECK(tails(2, 3) == std::vector<std::uint32_t>{0});
  CHECK(tails(2, 0).empty());
}

TEST_CASE_FIXTURE(OneBlasThread, "metrics are means, and zero without questions") {
  CHECK(metrics({}).mrr == 0);
  RankingSums sums;
  sums.add_rank(1).add_rank(2).add_rank(4).add_rank(20);
  const RankingMetrics means = metrics(sums);
  CHECK(means.mrr == doctest::Approx((1 + 0.5 + 0.25 + 0.05) / 4));
  CHECK(means.hits_at_1 == 0.25);
  CHECK(means.hits_at_3 == 0.5);
  CHECK(means.hits_at_10 == 0.75);
}

TEST_CASE_FIXTURE(OneBlasThread, "nearest neighbours are by angle, best first, without the entity itself") {
  // dimension 1: points in the plane
  const ModelRows rows{1, {1, 0, /**/ 10, 1, /**/ -1, 0, /**/ 0, 0, /**/ 1, 1}, {1, 0, 1, 0}};
  const std::vector<Neighbour> found = nearest_neighbours(rows.view(), 0, 2);
  REQUIRE(found.size() == 2);
  CHECK(found[0].entity == 1);
  CHECK(found[0].similarity == doctest::Approx(10 / std::sqrt(101.0)));
  CHECK(found[1].entity == 4);
  CHECK(nearest_neighbours(rows.view(), 0, 100).size() == 4);
  CHECK(nearest_neighbours(rows.view(), 0, 100).back().entity == 2);
}

}  // namespace
}  // namespace troupe::wordnet
