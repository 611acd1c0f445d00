#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "wordnet/dataset.hpp"

namespace troupe::wordnet {

/// A trained model's rows, borrowed. Each row is 2 * dimension floats (see ComplexModel).
struct ModelView {
  std::size_t dimension = 0;
  std::size_t entity_count = 0;
  std::size_t relation_count = 0;    ///< without the reciprocal ones
  const float* entities = nullptr;   ///< [entity_count, 2 * dimension]
  const float* relations = nullptr;  ///< [2 * relation_count, 2 * dimension], reciprocal ones last
};

/// A trained model's rows, owned.
struct ModelRows {
  std::size_t dimension = 0;
  std::vector<float> entities;   ///< as in ModelView
  std::vector<float> relations;  ///< as in ModelView

  ModelView view() const {
    const std::size_t width = 2 * dimension;
    return {dimension, entities.size() / width, relations.size() / width / 2, entities.data(),
            relations.data()};
  }
};

/// Sums over questions, two per triple. Sums of disjoint parts of a test set add up to the whole's.
struct RankingSums {
  double questions = 0;
  double reciprocal_ranks = 0;
  double hits_at_1 = 0;
  double hits_at_3 = 0;
  double hits_at_10 = 0;

  RankingSums& operator+=(const RankingSums& other);
  RankingSums& add_rank(double rank);
};

/// The means that are reported; zeros if there were no questions.
struct RankingMetrics {
  double mrr = 0;
  double hits_at_1 = 0;
  double hits_at_3 = 0;
  double hits_at_10 = 0;
};
RankingMetrics metrics(const RankingSums& sums);

/// Every right answer that the whole graph (train, valid and test) knows, by question. Immutable; may be
/// shared by threads.
class KnownAnswers {
 public:
  explicit KnownAnswers(const KnowledgeGraph& graph);

  /// The entities t of (head, relation, t), ascending; `relation` may be a reciprocal one.
  std::span<const std::uint32_t> tails(std::uint32_t head, std::uint32_t relation) const;

 private:
  struct Question {
    std::uint32_t head;
    std::uint32_t relation;
    std::uint32_t first;  // into answers_; the next question's first ends the run
  };
  std::vector<Question> questions_;
  std::vector<std::uint32_t> answers_;
};

/// The filtered ranks (Bordes et al. 2013) of both ends of `triples` among all entities: (h, r, ?) and
/// (?, r, t), the latter asked as (t, r + R, ?). Other right answers are left out of the ranking, and an
/// entity that scores the same as the answer counts as half before it (the mean of best and worst rank).
/// A NaN score counts as before the answer. Costs 4 * dimension * entity_count operations a question.
RankingSums evaluate(const ModelView& model, const KnownAnswers& known, std::span<const Triple> triples);

struct Neighbour {
  std::uint32_t entity = 0;
  double similarity = 0;  ///< cosine
};

/// The `count` entities whose rows point most nearly the same way as that of `entity`, itself left out,
/// best first.
std::vector<Neighbour> nearest_neighbours(const ModelView& model, std::uint32_t entity, std::size_t count);

}  // namespace troupe::wordnet
