#include "wordnet/sampler.hpp"

#include <algorithm>
#include <cassert>

#include <troupe/runtime/random.hpp>
#include <troupe/training/permutation.hpp>

namespace troupe::wordnet {

Sampler::Sampler(std::span<const Triple> triples, std::size_t entity_count, std::size_t relation_count,
                 std::size_t batch_size, std::size_t negatives, std::uint64_t seed)
    : triples_(triples),
      entity_count_(entity_count),
      relation_count_(relation_count),
      batch_size_(batch_size),
      negatives_(negatives),
      seed_(seed) {
  assert(!triples_.empty() && batch_size_ >= 1 && entity_count_ >= 1);
}

void Sampler::sample(std::uint64_t epoch, std::uint64_t index, Batch& batch) const {
  assert(index < batches_per_epoch());
  const std::uint64_t first = index * batch_size_;
  const std::size_t size = std::min<std::uint64_t>(batch_size_, examples_per_epoch() - first);
  const std::uint64_t epoch_seed = training::mix64(seed_, epoch);
  const training::Permutation shuffled(examples_per_epoch(), epoch_seed);
  batch.heads.resize(size);
  batch.relations.resize(size);
  batch.tails.resize(size);
  for (std::size_t i = 0; i < size; ++i) {
    const std::uint64_t example = shuffled(first + i);
    const Triple& triple = triples_[example / 2];
    const bool reciprocal = example % 2 == 1;
    batch.heads[i] = reciprocal ? triple.tail : triple.head;
    batch.tails[i] = reciprocal ? triple.head : triple.tail;
    batch.relations[i] = triple.relation + (reciprocal ? static_cast<std::uint32_t>(relation_count_) : 0);
  }
  Random random(training::mix64(epoch_seed, index));
  batch.negatives.resize(negatives_);
  for (std::uint32_t& entity : batch.negatives) {
    entity = static_cast<std::uint32_t>(random.below(entity_count_));
  }
}

}  // namespace troupe::wordnet
