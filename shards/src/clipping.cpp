#include <troupe/shards/clipping.hpp>

#include <algorithm>
#include <cmath>
#include <string>

#include <troupe/kernels/elementwise.hpp>

namespace troupe::shards {
namespace {

// A row of the largest gradients has squares that a float holds; many rows' go into a double.
double squares_of(const float* row, std::uint64_t dim) {
  return double{kernels::squared_l2_norm(row, static_cast<std::int64_t>(dim))};
}

/// Scales values of which the squares add up so that their norm is `limit` at most.
void hold(std::span<float> values, double squares, float limit) {
  const double norm = std::sqrt(squares);
  if (norm <= double{limit}) return;
  kernels::scale(values.data(), static_cast<std::int64_t>(values.size()),
                 static_cast<float>(double{limit} / norm), values.data());
}

}  // namespace

Result<void> Clipping::validate() const {
  for (const auto& [field, limit] :
       {std::pair("value", value), std::pair("row_norm", row_norm), std::pair("push_norm", push_norm)}) {
    if (std::isfinite(limit) && limit >= 0) continue;
    return Error{Code::kInvalidArgument, std::string("clipping's ") + field + " is " + std::to_string(limit) +
                                             ", expected a finite number above 0, or 0 for none"};
  }
  return {};
}

void clip_rows(const Clipping& clipping, std::uint64_t dim, std::span<float> gradients) {
  if (clipping.row_norm > 0) {
    for (std::size_t at = 0; at < gradients.size(); at += dim)
      hold(gradients.subspan(at, dim), squares_of(gradients.data() + at, dim), clipping.row_norm);
  }
  if (clipping.value > 0)
    for (float& value : gradients) value = std::clamp(value, -clipping.value, clipping.value);
}

void clip_push(const Clipping& clipping, std::uint64_t dim, std::span<const std::span<float>> parts) {
  if (clipping.push_norm <= 0) return;
  double squares = 0;
  for (const std::span<float> part : parts)
    for (std::size_t at = 0; at < part.size(); at += dim) squares += squares_of(part.data() + at, dim);
  for (const std::span<float> part : parts) hold(part, squares, clipping.push_norm);
}

}  // namespace troupe::shards
