#include "wordnet/complex_model.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <complex>
#include <span>
#include <vector>

#include <troupe/runtime/random.hpp>

#include "examples/one_blas_thread.hpp"

namespace troupe::wordnet {
namespace {

// The batch's mean loss in double precision, straight from the definition: candidates as the set of the
// batch's tails and negatives, scores as Re <h, r, conj(t)>.
class Definition {
 public:
  Definition(std::size_t dimension, double n3, const Batch& batch, const BatchPlan& plan)
      : dimension_(dimension), n3_(n3), batch_(batch), plan_(plan) {}

  double loss(const std::vector<double>& entities, const std::vector<double>& relations) const {
    double sum = 0;
    for (std::size_t i = 0; i < batch_.size(); ++i) {
      const std::size_t head = plan_.head_rows[i];
      const std::size_t relation = plan_.relation_rows[i];
      const std::size_t tail = plan_.tail_rows[i];
      double total = 0;
      for (std::size_t c = 0; c < plan_.candidate_count; ++c)
        total += std::exp(score(entities, relations, head, relation, c));
      sum += std::log(total) - score(entities, relations, head, relation, tail);
      sum += n3_ * (cubes(entities, head) + cubes(relations, relation) + cubes(entities, tail));
    }
    return sum / static_cast<double>(batch_.size());
  }

 private:
  std::complex<double> at(const std::vector<double>& rows, std::size_t row, std::size_t k) const {
    return {rows[row * 2 * dimension_ + k], rows[row * 2 * dimension_ + dimension_ + k]};
  }
  double score(const std::vector<double>& entities, const std::vector<double>& relations, std::size_t head,
               std::size_t relation, std::size_t tail) const {
    double sum = 0;
    for (std::size_t k = 0; k < dimension_; ++k) {
      sum += (at(entities, head, k) * at(relations, relation, k) * std::conj(at(entities, tail, k))).real();
    }
    return sum;
  }
  double cubes(const std::vector<double>& rows, std::size_t row) const {
    double sum = 0;
    for (std::size_t k = 0; k < dimension_; ++k) sum += std::pow(std::abs(at(rows, row, k)), 3);
    return sum;
  }

  std::size_t dimension_;
  double n3_;
  const Batch& batch_;
  const BatchPlan& plan_;
};

std::vector<float> random_rows(std::size_t count, Random& random) {
  std::vector<float> rows(count);
  for (float& value : rows) value = static_cast<float>(2 * random.uniform() - 1);
  return rows;
}

void check_gradient(std::size_t dimension, float n3) {
  constexpr std::uint64_t kSeed = 11;
  CAPTURE(dimension);
  CAPTURE(n3);
  CAPTURE(kSeed);
  // Entity 4 is head, tail and negative; entity 2 is the tail of two examples; relation 1 stands twice.
  const Batch batch{
      .heads = {4, 1, 0, 4}, .relations = {1, 0, 1, 2}, .tails = {2, 4, 2, 5}, .negatives = {4, 6, 3, 6}};
  BatchPlanner planner(8, 3);
  BatchPlan plan;
  planner.make(batch, plan);
  Random random(kSeed);
  const std::size_t width = 2 * dimension;
  const std::vector<float> entities = random_rows(plan.entity_keys.size() * width, random);
  const std::vector<float> relations = random_rows(plan.relation_keys.size() * width, random);
  std::vector<float> entity_grads(entities.size(), NAN);  // to be written, whatever is there
  std::vector<float> relation_grads(relations.size(), NAN);
  ComplexModel model(dimension, n3);
  const StepResult result =
      model.step(plan, entities.data(), relations.data(), entity_grads.data(), relation_grads.data());

  const Definition definition(dimension, n3, batch, plan);
  std::vector<double> e(entities.begin(), entities.end());
  std::vector<double> r(relations.begin(), relations.end());
  CHECK(result.examples == 4);
  CHECK(result.loss_sum / 4 ==
        doctest::Approx(Definition(dimension, 0, batch, plan).loss(e, r)).epsilon(1e-5));
  const auto check_against_differences = [&](std::vector<double>& values, const std::vector<float>& grads) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      constexpr double kStep = 1e-5;
      const double kept = values[i];
      values[i] = kept + kStep;
      const double above = definition.loss(e, r);
      values[i] = kept - kStep;
      const double below = definition.loss(e, r);
      values[i] = kept;
      const double expected = (above - below) / (2 * kStep);
      CHECK_MESSAGE(std::abs(grads[i] - expected) < 1e-5 + 1e-4 * std::abs(expected),
                    "element " << i << ": " << grads[i] << " and by differences " << expected);
    }
  };
  check_against_differences(e, entity_grads);
  check_against_differences(r, relation_grads);
}

TEST_CASE_FIXTURE(OneBlasThread, "gradients agree with finite differences of the loss in double precision") {
  for (const std::size_t dimension : {1, 3, 8, 17}) check_gradient(dimension, 0.0F);
}

TEST_CASE_FIXTURE(OneBlasThread, "with N3 too") {
  for (const std::size_t dimension : {1, 5, 16}) check_gradient(dimension, 0.3F);
}

TEST_CASE_FIXTURE(OneBlasThread,
                  "a smaller batch after a larger one is not disturbed by what the larger left in scratch") {
  const Batch large{.heads = {0, 1, 2}, .relations = {0, 1, 0}, .tails = {3, 4, 5}, .negatives = {6, 7}};
  const Batch small{.heads = {1}, .relations = {1}, .tails = {2}, .negatives = {3}};
  BatchPlanner planner(8, 2);
  BatchPlan plan;
  Random random(3);
  const std::vector<float> entities = random_rows(8 * 6, random);
  const std::vector<float> relations = random_rows(2 * 6, random);
  std::vector<float> entity_grads(8 * 6);
  std::vector<float> relation_grads(2 * 6);
  ComplexModel used(3);
  planner.make(large, plan);
  used.step(plan, entities.data(), relations.data(), entity_grads.data(), relation_grads.data());
  planner.make(small, plan);
  const StepResult after =
      used.step(plan, entities.data(), relations.data(), entity_grads.data(), relation_grads.data());
  const std::vector<float> grads_after = entity_grads;
  ComplexModel fresh(3);
  const StepResult expected =
      fresh.step(plan, entities.data(), relations.data(), entity_grads.data(), relation_grads.data());
  CHECK(after.loss_sum == expected.loss_sum);
  CHECK(grads_after == entity_grads);
}

TEST_CASE_FIXTURE(OneBlasThread, "an example without a wrong candidate has no loss") {
  const Batch batch{.heads = {0, 2}, .relations = {0, 0}, .tails = {1, 1}, .negatives = {1, 1}};
  BatchPlanner planner(3, 1);
  BatchPlan plan;
  planner.make(batch, plan);
  const std::vector<float> entities(3 * 4, 0.5F);
  const std::vector<float> relations(4, 0.5F);
  std::vector<float> entity_grads(3 * 4, NAN);
  std::vector<float> relation_grads(4, NAN);
  ComplexModel model(2);
  const StepResult result =
      model.step(plan, entities.data(), relations.data(), entity_grads.data(), relation_grads.data());
  CHECK(result.loss_sum == doctest::Approx(0).epsilon(1e-6));
  for (const float gradient : entity_grads) CHECK(gradient == doctest::Approx(0).epsilon(1e-6));
}

}  // namespace
}  // namespace troupe::wordnet
