#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "wordnet/dataset.hpp"

namespace troupe::wordnet {

/// Examples that are trained on together: (heads[i], relations[i]) asks for tails[i]. A triple (h, r, t)
/// is the two examples (h, r, t) and (t, r + R, h), with R the number of relations (reciprocal relations,
/// Lacroix, Usunier and Obozinski 2018).
struct Batch {
  std::vector<std::uint32_t> heads;
  std::vector<std::uint32_t> relations;  ///< below 2 R
  std::vector<std::uint32_t> tails;
  std::vector<std::uint32_t> negatives;  ///< wrong answers for every example (unless they are right)

  std::size_t size() const { return heads.size(); }
};

/// Hands out an epoch's batches in any order: batch (epoch, index) is a function of the seed and of these
/// two alone, so that any worker can be given any batch, or a lost one again. Every example is in just
/// one batch of an epoch. Immutable: may be used from many threads at once.
class Sampler {
 public:
  /// `triples` must outlive the sampler and must not be empty; batch_size >= 1, entity_count >= 1.
  Sampler(std::span<const Triple> triples, std::size_t entity_count, std::size_t relation_count,
          std::size_t batch_size, std::size_t negatives, std::uint64_t seed);

  std::uint64_t examples_per_epoch() const { return 2 * triples_.size(); }
  std::uint64_t batches_per_epoch() const { return (examples_per_epoch() + batch_size_ - 1) / batch_size_; }

  /// Fills `batch` (whose memory is reused) with batch `index` < batches_per_epoch() of `epoch`. Only the
  /// last batch of an epoch may be short.
  void sample(std::uint64_t epoch, std::uint64_t index, Batch& batch) const;

 private:
  std::span<const Triple> triples_;
  std::size_t entity_count_;
  std::size_t relation_count_;
  std::size_t batch_size_;
  std::size_t negatives_;
  std::uint64_t seed_;
};

}  // namespace troupe::wordnet
