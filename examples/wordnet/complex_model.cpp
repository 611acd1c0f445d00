#include "wordnet/complex_model.hpp"

#include <algorithm>
#include <cstdint>

#include <troupe/kernels/blas.hpp>
#include <troupe/kernels/elementwise.hpp>

namespace troupe::wordnet {
namespace {

// Grows, never shrinks: the last batch of an epoch is short.
float* at_least(std::vector<float>& scratch, std::size_t size) {
  if (scratch.size() < size) scratch.resize(size);
  return scratch.data();
}

std::int64_t signed_size(std::size_t size) {
  return static_cast<std::int64_t>(size);
}

}  // namespace

ComplexModel::ComplexModel(std::size_t dimension, float n3) : dimension_(dimension), n3_(n3) {}

StepResult ComplexModel::step(const BatchPlan& plan, const float* entity_rows, const float* relation_rows,
                              float* entity_grads, float* relation_grads) {
  const std::int64_t examples = signed_size(plan.size());
  const std::int64_t candidates = signed_size(plan.candidate_count);
  const std::int64_t width = signed_size(row_width());
  if (examples == 0) return {};
  make_queries(plan, entity_rows, relation_rows);
  float* scores = at_least(scores_, plan.size() * plan.candidate_count);
  kernels::gemm(false, true, examples, candidates, width, 1.0F, queries_.data(), width, entity_rows, width,
                0.0F, scores, candidates);
  const double loss_sum = softmax_gradient(plan);

  const float mean = 1.0F / static_cast<float>(examples);
  float* query_grads = at_least(query_gradients_, plan.size() * row_width());
  kernels::gemm(false, false, examples, width, candidates, mean, scores, candidates, entity_rows, width, 0.0F,
                query_grads, width);
  kernels::gemm(true, false, candidates, width, examples, mean, scores, candidates, queries_.data(), width,
                0.0F, entity_grads, width);
  std::fill(entity_grads + plan.candidate_count * row_width(),
            entity_grads + plan.entity_keys.size() * row_width(), 0.0F);
  std::fill_n(relation_grads, plan.relation_keys.size() * row_width(), 0.0F);
  add_query_gradients(plan, entity_rows, relation_rows, entity_grads, relation_grads);
  if (n3_ > 0) add_regulariser(plan, entity_rows, relation_rows, entity_grads, relation_grads);
  return {loss_sum, plan.size()};
}

void ComplexModel::make_queries(const BatchPlan& plan, const float* entity_rows, const float* relation_rows) {
  const std::size_t width = row_width();
  float* queries = at_least(queries_, plan.size() * width);
  for (std::size_t i = 0; i < plan.size(); ++i) {
    kernels::complex_multiply(entity_rows + plan.head_rows[i] * width,
                              relation_rows + plan.relation_rows[i] * width, 1, signed_size(dimension_),
                              queries + i * width);
  }
}

// The gradient by the scores is the softmax, less one at the answer.
double ComplexModel::softmax_gradient(const BatchPlan& plan) {
  const std::size_t candidates = plan.candidate_count;
  float* answer_scores = at_least(answer_scores_, plan.size());
  float* log_sums = at_least(log_sums_, plan.size());
  for (std::size_t i = 0; i < plan.size(); ++i)
    answer_scores[i] = scores_[i * candidates + plan.tail_rows[i]];
  kernels::softmax_rows(scores_.data(), signed_size(plan.size()), signed_size(candidates), scores_.data(),
                        log_sums);
  double loss_sum = 0;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    scores_[i * candidates + plan.tail_rows[i]] -= 1.0F;
    loss_sum += log_sums[i] - answer_scores[i];
  }
  return loss_sum;
}

// With g the gradient by head * relation: that by the head is conj(relation) * g, and the other way round.
void ComplexModel::add_query_gradients(const BatchPlan& plan, const float* entity_rows,
                                       const float* relation_rows, float* entity_grads,
                                       float* relation_grads) {
  const std::size_t width = row_width();
  const std::int64_t dimension = signed_size(dimension_);
  for (std::size_t i = 0; i < plan.size(); ++i) {
    const float* gradient = query_gradients_.data() + i * width;
    const std::size_t head = plan.head_rows[i] * width;
    const std::size_t relation = plan.relation_rows[i] * width;
    kernels::complex_multiply_conjugate_add(relation_rows + relation, gradient, 1, dimension,
                                            entity_grads + head);
    kernels::complex_multiply_conjugate_add(entity_rows + head, gradient, 1, dimension,
                                            relation_grads + relation);
  }
}

void ComplexModel::add_regulariser(const BatchPlan& plan, const float* entity_rows,
                                   const float* relation_rows, float* entity_grads, float* relation_grads) {
  const std::size_t width = row_width();
  const float weight = n3_ / static_cast<float>(plan.size());
  const auto add = [&](std::size_t rows, const float* values, float* grads) {
    for (std::size_t row = 0; row < rows; ++row) {
      if (uses_[row] == 0) continue;
      kernels::n3_gradient_rows(values + row * width, 1, signed_size(dimension_), weight * uses_[row],
                                grads + row * width);
    }
  };
  uses_.assign(plan.entity_keys.size(), 0.0F);
  for (const std::uint32_t row : plan.head_rows) uses_[row] += 1.0F;
  for (const std::uint32_t row : plan.tail_rows) uses_[row] += 1.0F;
  add(plan.entity_keys.size(), entity_rows, entity_grads);
  uses_.assign(plan.relation_keys.size(), 0.0F);
  for (const std::uint32_t row : plan.relation_rows) uses_[row] += 1.0F;
  add(plan.relation_keys.size(), relation_rows, relation_grads);
}

}  // namespace troupe::wordnet
