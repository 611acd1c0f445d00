#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <troupe/kernels/dedup.hpp>
#include <troupe/shards/gradient_merge.hpp>
#include <troupe/shards/optimizer.hpp>

#include "finite.hpp"
#include "hashing.hpp"

namespace troupe::shards {
namespace {

std::string text_of(float value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return "infinite";
  char text[32];
  std::snprintf(text, sizeof(text), "%g", static_cast<double>(value));
  return text;
}

}  // namespace

Error gradient_error(const TableSpec& spec, std::uint64_t key, const float* row, bool sum) {
  std::uint64_t column = 0;
  while (column + 1 < spec.dim && std::abs(row[column]) <= kLargestGradient) ++column;
  return {Code::kInvalidArgument,
          "table '" + spec.name + (sum ? "': the gradients of key " : "': the gradient of key ") +
              std::to_string(key) + (sum ? " add up to " : " is ") + text_of(row[column]) + " in column " +
              std::to_string(column) + ", expected numbers up to " + text_of(kLargestGradient)};
}

// Some are looked at while they are in the first-level cache.
Result<void> copy_gradients(const TableSpec& spec, std::uint64_t first, std::uint64_t rows,
                            const float* gradients, float* to) {
  constexpr std::uint64_t kBlock_floats = 4096;
  const std::uint64_t some = std::max<std::uint64_t>(1, kBlock_floats / spec.dim);
  for (std::uint64_t row = 0; row < rows; row += some) {
    const std::uint64_t count = std::min(some, rows - row);
    const float* from = gradients + row * spec.dim;
    for (std::uint64_t i = 0; !all_within(from, count * spec.dim, kLargestGradient) && i < count; ++i) {
      if (!all_within(from + i * spec.dim, spec.dim, kLargestGradient))
        return gradient_error(spec, first + row + i, from + i * spec.dim, false);
    }
    std::memcpy(to + row * spec.dim, from, count * spec.dim * sizeof(float));
  }
  return {};
}

struct GradientMerge::State {
  TableSpec spec;
  kernels::Dedup dedup{secret_seed()};
  kernels::Dedup::Result found;
  std::vector<float*> to;               // [distinct keys]
  std::vector<std::uint64_t> repeated;  // numbers of distinct keys that came again, as often as they did
};

GradientMerge::GradientMerge(const TableSpec& spec)
    : state_(std::make_unique<State>(State{.spec = spec, .found = {}, .to = {}, .repeated = {}})) {}
GradientMerge::GradientMerge(GradientMerge&&) noexcept = default;
GradientMerge& GradientMerge::operator=(GradientMerge&&) noexcept = default;
GradientMerge::~GradientMerge() = default;

std::span<const std::uint64_t> GradientMerge::distinct(std::span<const std::uint64_t> keys) {
  state_->found = state_->dedup.run(keys);
  const std::size_t count = state_->found.unique.size();
  if (state_->to.size() < count) state_->to.resize(count);
  return state_->found.unique;
}

void GradientMerge::place(std::size_t i, float* to) {
  state_->to[i] = to;
}

// A row is looked at while it is in the first-level cache. Sums are looked at when they are whole: what is
// not finite stays so, and two large numbers may cancel out.
Result<void> GradientMerge::run(const float* gradients) {
  State& state = *state_;
  const std::uint64_t dim = state.spec.dim;
  const auto& [unique, inverse] = state.found;
  state.repeated.clear();
  std::size_t seen = 0;
  for (std::size_t i = 0; i < inverse.size(); ++i) {
    const float* from = gradients + i * dim;
    if (!all_within(from, dim, kLargestGradient))
      return gradient_error(state.spec, unique[inverse[i]], from, false);
    float* to = state.to[inverse[i]];
    if (inverse[i] == seen) {  // numbered in the order in which they first come
      std::memcpy(to, from, dim * sizeof(float));
      ++seen;
      continue;
    }
    for (std::uint64_t j = 0; j < dim; ++j) to[j] += from[j];
    state.repeated.push_back(inverse[i]);
  }
  for (const std::uint64_t number : state.repeated) {
    if (all_within(state.to[number], dim, kLargestGradient)) continue;
    return gradient_error(state.spec, unique[number], state.to[number], true);
  }
  return {};
}

}  // namespace troupe::shards
