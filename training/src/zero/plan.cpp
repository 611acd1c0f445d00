#include "zero/plan.hpp"

#include <algorithm>

namespace troupe::training::zero {

Plan::Plan(const std::vector<ZeroParameter>& parameters, const ZeroOptions& options, int rank, int members)
    : rank_(rank), members_(members), cut_(options.stage != ZeroStage::kNothing), places_(parameters.size()) {
  std::vector<std::int64_t> sizes;
  int layers = 0;
  for (const ZeroParameter& each : parameters) {
    sizes.push_back(each.shape.elements());
    layers = std::max(layers, each.layer + 1);
  }
  layer_regions_.assign(static_cast<std::size_t>(layers), -1);
  const bool gathers = options.stage == ZeroStage::kParameters;
  std::vector<int> kept;
  std::vector<std::vector<int>> gathered(static_cast<std::size_t>(layers));
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (gathers && sizes[i] >= options.keep_below)
      gathered[static_cast<std::size_t>(parameters[i].layer)].push_back(static_cast<int>(i));
    else
      kept.push_back(static_cast<int>(i));
  }
  if (!kept.empty()) add_region(-1, kept, sizes, options.bucket);
  for (int layer = 0; layer < layers; ++layer) {
    const std::vector<int>& inside = gathered[static_cast<std::size_t>(layer)];
    if (inside.empty()) continue;
    layer_regions_[static_cast<std::size_t>(layer)] = static_cast<int>(regions_.size());
    add_region(layer, inside, sizes, options.bucket);
  }
}

void Plan::add_region(int layer, const std::vector<int>& parameters, const std::vector<std::int64_t>& sizes,
                      std::int64_t bucket) {
  const auto number = static_cast<int>(regions_.size());
  std::int64_t used = 0;
  for (const int each : parameters) {
    const std::int64_t n = sizes[static_cast<std::size_t>(each)];
    places_[static_cast<std::size_t>(each)] = {number, {used, n}};
    used += n;
  }
  const auto filled_up = [&](std::int64_t n) { return (n + members_ - 1) / members_ * members_; };
  Region region;
  region.layer = layer;
  region.n = filled_up(used);
  region.first = static_cast<int>(segments_.size());
  region.own_at = own_;
  const std::int64_t step = filled_up(bucket);
  for (std::int64_t at = 0; at < region.n; at += step) {
    Segment segment;
    segment.region = number;
    segment.range = {at, std::min(step, region.n - at)};
    segment.used = std::min(segment.range.n, used - at);
    segment.own_at = own_;
    own_ += stepped(segment).n;
    largest_ = std::max(largest_, segment.range.n);
    segments_.push_back(segment);
  }
  region.segments = static_cast<int>(segments_.size()) - region.first;
  region.own = own_ - region.own_at;
  regions_.push_back(region);
  inside_.push_back(parameters);
}

std::vector<Piece> Plan::pieces(int region, Range range) const {
  const std::vector<int>& inside = inside_[static_cast<std::size_t>(region)];
  const auto begin = std::partition_point(inside.begin(), inside.end(), [&](int each) {
    return place(each).range.at + place(each).range.n <= range.at;
  });
  std::vector<Piece> pieces;
  for (auto each = begin; each != inside.end() && place(*each).range.at < range.at + range.n; ++each) {
    const Range& whole = place(*each).range;
    const std::int64_t at = std::max(whole.at, range.at);
    const std::int64_t n = std::min(whole.at + whole.n, range.at + range.n) - at;
    if (n > 0) pieces.push_back({*each, at - whole.at, at, n});
  }
  return pieces;
}

Range Plan::segments_of(int parameter) const {
  const Place& where = place(parameter);
  const Region& region = regions_[static_cast<std::size_t>(where.region)];
  if (where.range.n == 0) return {};
  const std::int64_t step = segments_[static_cast<std::size_t>(region.first)].range.n;  // all but the last
  const std::int64_t first = where.range.at / step;
  const std::int64_t last = (where.range.at + where.range.n - 1) / step;
  return {region.first + first, last - first + 1};
}

}  // namespace troupe::training::zero
