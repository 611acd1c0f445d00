#pragma once

#include <cstdint>

#include <troupe/kernels/dropout.hpp>

namespace troupe::gpt {

/// Where a layer drops something: each has a choice of its own.
enum class DropoutSite : std::uint8_t { kEmbedding, kAttention, kProjection, kOut };

inline kernels::Dropout at_site(const kernels::Dropout& step, std::int64_t layer, DropoutSite site) {
  const auto number = static_cast<std::uint32_t>(layer * 4) + static_cast<std::uint32_t>(site) + 1;
  std::uint32_t seed = step.seed ^ (number * 0x9e3779b9U);
  seed = (seed ^ (seed >> 16)) * 0x7feb352dU;
  return {step.rate, seed ^ (seed >> 15)};
}

}  // namespace troupe::gpt
