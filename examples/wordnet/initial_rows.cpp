#include "wordnet/initial_rows.hpp"

#include <troupe/runtime/random.hpp>
#include <troupe/training/permutation.hpp>

namespace troupe::wordnet {

void initial_row(std::uint64_t seed, std::uint64_t key, float scale, std::span<float> row) {
  Random random(training::mix64(seed, key));
  for (float& value : row) value = static_cast<float>(scale * random.normal());
}

}  // namespace troupe::wordnet
