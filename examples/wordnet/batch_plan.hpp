#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "wordnet/sampler.hpp"

namespace troupe::wordnet {

/// Which rows a batch needs, each once, and where each example finds its own among them: what is pulled
/// before a step and pushed after it. Rows are numbered by their place in the key lists.
struct BatchPlan {
  /// The candidates (the batch's tails and negatives) first, then the heads that are not among them: so
  /// the candidates' rows, once gathered, are the right side of the score product as they lie.
  std::vector<std::uint64_t> entity_keys;
  std::vector<std::uint64_t> relation_keys;
  std::size_t candidate_count = 0;
  std::vector<std::uint32_t> head_rows;      ///< per example, into entity_keys
  std::vector<std::uint32_t> relation_rows;  ///< per example, into relation_keys
  std::vector<std::uint32_t> tail_rows;      ///< per example, into entity_keys, below candidate_count

  std::size_t size() const { return head_rows.size(); }
};

/// Makes plans, reusing its memory. One thread at a time.
class BatchPlanner {
 public:
  /// For entities below `entity_count` and relations, reciprocal ones included, below `relation_count`.
  BatchPlanner(std::size_t entity_count, std::size_t relation_count);

  /// Linear in the batch; an entity or relation that occurs twice gets one row, so that no candidate
  /// which equals an example's tail can count as its negative.
  void make(const Batch& batch, BatchPlan& plan);

 private:
  // Entity or relation to row; kNoRow outside make().
  std::vector<std::uint32_t> entity_rows_;
  std::vector<std::uint32_t> relation_rows_;
};

}  // namespace troupe::wordnet
