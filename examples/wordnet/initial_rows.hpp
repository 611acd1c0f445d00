#pragma once

#include <cstdint>
#include <span>

namespace troupe::wordnet {

/// The first values of row `key`: normal, mean 0, standard deviation `scale`, a function of (seed, key)
/// alone, so that it does not matter which process makes the row, or when.
void initial_row(std::uint64_t seed, std::uint64_t key, float scale, std::span<float> row);

}  // namespace troupe::wordnet
