#pragma once

#include <cstdint>

/// The first weights of rows, which depend on the numbers here, the row's key and the column only: the same
/// bits on the host and on every GPU.
namespace troupe::kernels {

struct Initial {
  enum class Kind : std::uint8_t {
    kZeros,
    kUniform,  ///< evenly over [a, b)
    kNormal,   ///< of mean a and standard deviation b
  };
  Kind kind = Kind::kZeros;
  float a = 0;
  float b = 0;
  std::uint64_t seed = 0;
};

/// out[dim] = the first weights of the row of `key`.
void initial_row(const Initial& initial, std::uint64_t key, std::int64_t dim, float* out);

}  // namespace troupe::kernels
