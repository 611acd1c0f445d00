// What a step does with its gradients before the optimizer gets them: clipping, and compensation for delay.
#include <algorithm>

#include "table_shard_state.hpp"

namespace troupe::shards {

Result<void> TableShard::State::prepare_step(const RowKeys& keys) {
  if (!adjusts()) return {};
  if (auto made = rows->make(keys); !made) return made.error();
  return note(keys);
}

Result<void> TableShard::State::note(const RowKeys& keys) {
  if (!history) return {};
  const std::size_t most = adjusted.size() / spec.dim;
  for (std::size_t begin = 0; begin < keys.size(); begin += most) {
    const auto some = keys.subspan(begin, std::min(most, keys.size() - begin));
    if (auto there = read(some, IfMissing::kMake, adjusted.data(), nullptr); !there) return there;
    history->note(stats.version + 1, some, adjusted.data());
  }
  return {};
}

std::span<const std::uint64_t> TableShard::State::list_of(const RowKeys& keys) {
  if (!keys.in_ranges()) return keys.list();
  listed.clear();
  keys.for_each_range([this](const RowRange& range) {
    for (std::uint64_t row = range.begin; row < range.end; ++row) listed.push_back(row);
  });
  return listed;
}

Result<void> TableShard::State::step(const Gradients& gradients, float scale, std::uint64_t pulled) {
  if (!adjusts()) {
    if (auto done = rows->update(gradients.keys, gradients.values, scale); !done) return done.error();
    return {};
  }
  // Some rows at a time: their rows have been made, and noted, so that none of it can fail.
  const std::size_t most = adjusted.size() / spec.dim;
  for (std::size_t begin = 0; begin < gradients.keys.size(); begin += most) {
    const auto keys = gradients.keys.subspan(begin, std::min(most, gradients.keys.size() - begin));
    const std::span<float> values(adjusted.data(), keys.size() * spec.dim);
    std::copy_n(gradients.values + begin * spec.dim, values.size(), values.begin());
    clip_rows(spec.clipping, spec.dim, values);
    if (history && pulled != kNotPulled) compensate(keys, values, pulled);
    if (auto done = rows->update(keys, values.data(), scale); !done) return done.error();
  }
  return {};
}

// In double: of the largest gradients and weights the correction is more than a float holds. What comes of it
// is held to what a gradient may be.
void TableShard::State::compensate(const RowKeys& keys, std::span<float> gradients,
                                   std::uint64_t pulled) const {
  constexpr double kMost{kLargestGradient};
  const double lambda{spec.delay_compensation.lambda};
  float* row = gradients.data();
  const auto correct = [&](std::uint64_t key) {
    const float* was = history->at(key, pulled);
    const float* now = history->at(key, stats.version);  // noted for this push
    for (std::uint64_t j = 0; j < spec.dim && was != nullptr && was != now; ++j) {
      const double g{row[j]};
      const double change = double{now[j]} - double{was[j]};
      row[j] = static_cast<float>(std::clamp(g + lambda * g * g * change, -kMost, kMost));
    }
    row += spec.dim;
  };
  if (!keys.in_ranges()) {
    for (const std::uint64_t key : keys.list()) correct(key);
    return;
  }
  keys.for_each_range([&](const RowRange& range) {
    for (std::uint64_t each = range.begin; each < range.end; ++each) correct(each);
  });
}

}  // namespace troupe::shards
