#pragma once

#include <cstddef>
#include <cstdint>

namespace troupe::wordnet {

/// What is trained and how. The defaults are for WordNet; other graphs set them by flags.
struct HyperParameters {
  std::size_t dimension = 100;   ///< complex numbers per row: a row is 2 * dimension floats
  std::size_t batch_size = 512;  ///< examples a step; each triple is two examples an epoch
  std::size_t negatives = 512;   ///< entities drawn uniformly, shared by the batch
  float learning_rate = 0.1F;    ///< Adagrad's
  float epsilon = 1e-7F;         ///< Adagrad's, beside the root
  float initial_scale = 1e-3F;   ///< standard deviation of a row's first values
  float n3 = 0.05F;              ///< weight of the N3 regulariser; 0 is none
  std::uint64_t seed = 1;        ///< of batches, negatives and first values

  std::size_t row_width() const { return 2 * dimension; }
};

}  // namespace troupe::wordnet
