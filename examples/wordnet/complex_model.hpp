#pragma once

#include <cstddef>
#include <vector>

#include "wordnet/batch_plan.hpp"

namespace troupe::wordnet {

/// What one step found.
struct StepResult {
  double loss_sum = 0;  ///< cross-entropy, natural logarithm, over the examples, regulariser not included
  std::size_t examples = 0;
};

/// ComplEx (Trouillon et al. 2016): entities and relations are vectors of `dimension` complex numbers and
/// score(h, r, t) = Re sum_k h_k r_k conj(t_k). A row lies as its real parts, then its imaginary parts:
/// 2 * dimension floats; then the score is the plain dot product of (h * r) and t.
///
/// The loss of an example is the softmax cross-entropy of its tail among the batch's candidates; with
/// n3 > 0, n3 * (|h|^3 + |r|^3 + |t|^3) is added, |x|^3 summing the cubed moduli (Lacroix, Usunier and
/// Obozinski 2018). The batch's loss is the mean over its examples.
///
/// One thread at a time; scratch is kept, so that steps of one size allocate nothing.
class ComplexModel {
 public:
  explicit ComplexModel(std::size_t dimension, float n3 = 0);

  std::size_t dimension() const { return dimension_; }
  std::size_t row_width() const { return 2 * dimension_; }

  /// The loss of a batch and its gradients with regard to the rows given.
  /// entity_rows, entity_grads: [plan.entity_keys.size(), row_width()], in the order of the keys;
  /// relation_rows, relation_grads: [plan.relation_keys.size(), row_width()]. Gradients are written, not
  /// added to; they must not overlap the rows.
  StepResult step(const BatchPlan& plan, const float* entity_rows, const float* relation_rows,
                  float* entity_grads, float* relation_grads);

 private:
  void make_queries(const BatchPlan& plan, const float* entity_rows, const float* relation_rows);
  double softmax_gradient(const BatchPlan& plan);
  void add_query_gradients(const BatchPlan& plan, const float* entity_rows, const float* relation_rows,
                           float* entity_grads, float* relation_grads);
  void add_regulariser(const BatchPlan& plan, const float* entity_rows, const float* relation_rows,
                       float* entity_grads, float* relation_grads);

  std::size_t dimension_;
  float n3_;
  std::vector<float> queries_;          // [examples, row_width]: head * relation
  std::vector<float> query_gradients_;  // the same shape
  std::vector<float> scores_;           // [examples, candidates], then the loss's gradient, times examples
  std::vector<float> answer_scores_;    // [examples]
  std::vector<float> log_sums_;         // [examples]
  std::vector<float> uses_;             // how often each row stands in the batch
};

}  // namespace troupe::wordnet
