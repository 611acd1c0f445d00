#include "troupe/kernels/initial.hpp"

#include <algorithm>

#include "initial_value.hpp"

namespace troupe::kernels {

void initial_row(const Initial& initial, std::uint64_t key, std::int64_t dim, float* out) {
  if (initial.kind == Initial::Kind::kZeros) {
    std::fill_n(out, dim, 0.0F);
    return;
  }
  const std::uint64_t start = random_start(initial.seed, key);
  for (std::int64_t j = 0; j < dim; ++j)
    out[j] = initial_value(initial, start, static_cast<std::uint64_t>(j));
}

}  // namespace troupe::kernels
