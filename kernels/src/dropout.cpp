// Dropout, and what is added to a residual after it: to the GPU's versions, or row by row on the host.
#include "troupe/kernels/dropout.hpp"

#include <algorithm>
#include <cassert>

#include "dropped.hpp"
#include "gpu_dropout.hpp"
#include "host_dense.hpp"
#include "host_rows.hpp"

namespace troupe::kernels {

Launch drop(Place place, Element element, const void* x, std::int64_t n, Dropout dropout, void* out) {
  assert(dropout.rate >= 0 && dropout.rate < 1);
  if (place.on_gpu()) return gpu::drop(place, element, x, n, dropout, out);
  const Dropper dropper(dropout);
  // In pieces, so that those of 16 bits need little memory.
  constexpr std::int64_t kPiece = 1024;
  for (std::int64_t first = 0; first < n; first += kPiece) {
    const std::int64_t count = std::min(kPiece, n - first);
    const auto bytes = static_cast<std::int64_t>(size_of(element)) * first;
    HostRows from(element, static_cast<const char*>(x) + bytes, count);
    HostRows to(element, static_cast<char*>(out) + bytes, count);
    const float* const values = from.read(0);
    float* const results = to.begin_write(0);
    for (std::int64_t i = 0; i < count; ++i)
      results[i] = values[i] * (dropper.any() ? dropper.of(static_cast<std::uint64_t>(first + i)) : 1.0F);
    to.end_write(0);
  }
  return {};
}

Launch add_residual(Place place, Element element, const void* residual, const void* x, const float* bias,
                    std::int64_t rows, std::int64_t columns, Dropout dropout, void* out) {
  assert(dropout.rate >= 0 && dropout.rate < 1);
  if (place.on_gpu())
    return gpu::add_residual(place, element, residual, x, bias, rows, columns, dropout, out);
  const Dropper dropper(dropout);
  HostRows base(element, residual, columns);
  HostRows from(element, x, columns);
  HostRows to(element, out, columns);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* const before = base.read(r);
    const float* const values = from.read(r);
    float* const sums = to.begin_write(r);
    if (dropper.any()) {
      for (std::int64_t j = 0; j < columns; ++j)
        sums[j] = before[j] + (values[j] + (bias ? bias[j] : 0.0F)) *
                                  dropper.of(static_cast<std::uint64_t>(r * columns + j));
    } else {
      host::add_row(values, bias, before, columns, sums);
    }
    to.end_write(r);
  }
  return {};
}

}  // namespace troupe::kernels
