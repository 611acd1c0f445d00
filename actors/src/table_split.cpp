// How what a TableClient asks for is cut by shard: lists of keys, and ranges of a dense table's rows.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include <troupe/shards/half.hpp>

#include "table_core.hpp"

namespace troupe {
namespace {

constexpr std::size_t kPullAtOnce_bytes = std::size_t{4} << 20;

/// The one range that they are, if they are one: those of a list that follow each other are, too.
std::optional<shards::RowRange> range_of(const shards::TableSpec& spec, const shards::RowKeys& keys) {
  std::optional<shards::RowRange> range;
  if (keys.in_ranges()) {
    keys.for_each_range([&](const shards::RowRange& own) { range = own; });
    return range;
  }
  const auto list = keys.list();
  if (spec.kind != shards::TableKind::kDense || list.size() < 2 || list.back() >= spec.rows) return {};
  for (std::size_t i = 1; i < list.size(); ++i)
    if (list[i] != list[0] + i) return {};
  return shards::RowRange{list.front(), list.back() + 1};
}

/// A range, and which row of those asked for its first one is.
struct Piece {
  shards::RowRange rows;
  std::uint64_t at = 0;
};

/// uint64 [pieces, 2], as servers want them.
Tensor tensor_of(const std::vector<Piece>& pieces, MemoryPool& pool) {
  Tensor tensor = Tensor::empty(DType::kUInt64, {static_cast<std::int64_t>(pieces.size()), 2}, &pool);
  std::uint64_t* to = tensor.as<std::uint64_t>().data();
  for (const Piece& piece : pieces) {
    *to++ = piece.rows.begin;
    *to++ = piece.rows.size();
  }
  return tensor;
}

/// The key, or row, of gradient `i` of those that are sent with `keys`.
std::uint64_t key_at(const Tensor& keys, std::size_t i) {
  const std::span numbers = keys.as<const std::uint64_t>();
  if (keys.rank() == 1) return numbers[i];
  std::size_t range = 0;
  for (; i >= numbers[range + 1]; range += 2) i -= numbers[range + 1];
  return numbers[range] + i;
}

/// Ascending within a shard.
Result<std::map<std::uint32_t, std::vector<Piece>>> by_shard(const shards::Partitioner& partitioner,
                                                             const shards::RowKeys& ranges) {
  std::map<std::uint32_t, std::vector<Piece>> parts;
  std::optional<Error> error;
  std::uint64_t at = 0;
  ranges.for_each_range([&](const shards::RowRange& range) {
    const auto split = partitioner.split(range);
    if (!split) {
      error = split.error();
      return;
    }
    for (const shards::ShardRange& part : *split)
      parts[part.shard].push_back({part.rows, at + part.rows.begin - range.begin});
    at += range.size();
  });
  if (error) return *error;
  return parts;
}

}  // namespace

TableClient::Core::Splitting::Splitting(Core& core) : core_(core) {
  {
    const std::lock_guard lock(core.mutex_);
    if (!core.idle_.empty()) {
      splitter_ = std::move(core.idle_.back());
      core.idle_.pop_back();
    }
  }
  const std::shared_ptr<const Routed> routed = core.routed();
  if (!splitter_) splitter_ = std::make_unique<Splitter>(core.spec, routed);
  if (splitter_->routed == routed) return;
  splitter_->partitioner.set_map(routed->map);
  splitter_->routed = routed;
}

TableClient::Core::Splitting::~Splitting() {
  const std::lock_guard lock(core_.mutex_);
  core_.idle_.push_back(std::move(splitter_));
}

Tensor TableClient::Core::key_tensor(std::span<const std::uint64_t> keys) const {
  Tensor tensor =
      Tensor::empty(DType::kUInt64, {static_cast<std::int64_t>(keys.size())}, &node.endpoint().pool());
  if (!keys.empty()) std::memcpy(tensor.data(), keys.data(), keys.size_bytes());
  return tensor;
}

TableClient::Core::To TableClient::Core::Splitter::to(std::uint32_t shard) const {
  return {routed->numbers[shard], routed->route.servers[shard], routed->route.version, shard == 0};
}

// ---- Reading ------------------------------------------------------------------------------------

/// Many rows are asked for in several calls, between which a shard answers others.
std::size_t TableClient::Core::rows_at_once() const {
  return std::max<std::size_t>(1, kPullAtOnce_bytes / (spec.dim * sizeof(float)));
}

Result<std::vector<TableClient::Core::Rows>> TableClient::Core::split_rows(const shards::RowKeys& keys,
                                                                           bool pull) {
  const Splitting splitting(*this);
  shards::Partitioner& partitioner = splitting->partitioner;
  // The decider must hear of this worker's clock even if nothing is wanted of it.
  const bool tells = pull && joined;
  if (const auto range = range_of(spec, keys)) return split_range(*splitting, *range, 0, tells);
  if (auto good = shards::check_ranges(spec, keys); !good) return good.error();
  if (auto split = partitioner.split(keys.list()); !split) return split.error();
  const std::size_t most = rows_at_once();
  std::vector<Rows> parts;
  for (std::uint32_t shard = 0; shard < partitioner.map().shards(); ++shard) {
    const auto wanted = partitioner.keys(shard);
    const auto at = partitioner.positions(shard);
    if (wanted.empty() && !(tells && shard == 0)) continue;
    std::size_t begin = 0;
    do {
      const std::size_t some = std::min(most, wanted.size() - begin);
      const auto here = at.subspan(begin, some);
      parts.push_back(
          {splitting->to(shard), key_tensor(wanted.subspan(begin, some)), {here.begin(), here.end()}, {}, 0});
      begin += some;
    } while (begin < wanted.size());
  }
  return parts;
}

/// One range a call, which comes to one place.
Result<std::vector<TableClient::Core::Rows>> TableClient::Core::split_range(const Splitter& splitter,
                                                                            const shards::RowRange& range,
                                                                            std::uint64_t at,
                                                                            bool tells) const {
  auto shards = by_shard(splitter.partitioner, shards::RowKeys(std::span(&range, 1)));
  if (!shards) return shards.error();
  const std::uint64_t most = rows_at_once();
  std::vector<Rows> parts;
  if (tells && !shards->contains(0)) parts.push_back({splitter.to(0), key_tensor({}), {}, {}, 0});
  for (const auto& [shard, pieces] : *shards) {
    for (const Piece& piece : pieces) {
      for (std::uint64_t done = 0; done < piece.rows.size(); done += most) {
        const std::uint64_t begin = piece.rows.begin + done;
        const shards::RowRange some{begin, std::min(piece.rows.end, begin + most)};
        parts.push_back({splitter.to(shard),
                         tensor_of({{some, 0}}, node.endpoint().pool()),
                         {},
                         some,
                         at + piece.at + done});
      }
    }
  }
  return parts;
}

Result<std::vector<TableClient::Core::Rows>> TableClient::Core::split_again(const Rows& part) {
  const Splitting splitting(*this);
  if (part.range) return split_range(*splitting, *part.range, part.at, false);
  shards::Partitioner& partitioner = splitting->partitioner;
  if (auto split = partitioner.split(part.keys.as<const std::uint64_t>()); !split) return split.error();
  std::vector<Rows> parts;
  for (std::uint32_t shard = 0; shard < partitioner.map().shards(); ++shard) {
    if (partitioner.keys(shard).empty()) continue;
    Rows rows{splitting->to(shard), key_tensor(partitioner.keys(shard)), {}, {}, 0};
    for (const std::uint32_t at : partitioner.positions(shard)) rows.positions.push_back(part.positions[at]);
    parts.push_back(std::move(rows));
  }
  return parts;
}

// ---- Writing ------------------------------------------------------------------------------------

Result<std::vector<TableClient::Core::Gradients>> TableClient::Core::split_gradients(
    const shards::RowKeys& keys, const float* gradients, const PulledVersions& versions) {
  const Splitting splitting(*this);
  const auto range = range_of(spec, keys);
  auto parts = range ? copy_ranges(*splitting, shards::RowKeys(std::span(&*range, 1)), gradients)
                     : merge_keys(*splitting, keys, gradients);
  if (!parts) return parts;
  for (Gradients& part : *parts) {
    if (part.to.number < versions.size()) part.pulled = versions[part.to.number];
    if (part.pulled.generation == 0) part.pulled.generation = generation(part.to.number);
  }
  clip(*parts);
  if (auto made = make_half(*parts); !made) return made.error();
  return parts;
}

Result<void> TableClient::Core::make_half(std::vector<Gradients>& parts) const {
  for (Gradients& part : parts)
    if (auto made = make_half(part); !made) return made;
  return {};
}

Result<void> TableClient::Core::make_half(Gradients& part) const {
  if (!half_pushes || part.values.dtype() != DType::kFloat32) return {};
  const std::span<const float> values = part.values.as<const float>();
  const float most = shards::largest_of(spec.weights);
  const auto large =
      std::find_if(values.begin(), values.end(), [most](float value) { return std::abs(value) > most; });
  if (large != values.end()) {
    const auto at = static_cast<std::size_t>(large - values.begin());
    return Error{Code::kInvalidArgument,
                 "table '" + spec.name + "': the gradient of key " +
                     std::to_string(key_at(part.keys, at / spec.dim)) + " is " + std::to_string(*large) +
                     " in column " + std::to_string(at % spec.dim) + ", expected numbers up to " +
                     std::to_string(most) + " to be sent as " + std::string(to_string(spec.weights)) +
                     ": push them as float32 (Options::half_pushes), or clip them"};
  }
  Tensor half = Tensor::empty(spec.weights, part.values.shape(), &node.endpoint().pool());
  shards::narrow(spec.weights, values.data(), values.size(), half.data());
  part.values = std::move(half);
  return {};
}

Result<std::vector<TableClient::Core::Gradients>> TableClient::Core::merge_keys(
    Splitter& splitter, const shards::RowKeys& keys, const float* gradients) const {
  shards::Partitioner& partitioner = splitter.partitioner;
  shards::GradientMerge& merge = splitter.merge;
  if (auto good = shards::check_ranges(spec, keys); !good) return good.error();
  if (auto split = partitioner.split(merge.distinct(keys.list())); !split) return split.error();
  std::vector<Gradients> parts;
  for (std::uint32_t shard = 0; shard < partitioner.map().shards(); ++shard) {
    const auto pushed = partitioner.keys(shard);
    if (pushed.empty()) continue;
    Tensor values = gradient_tensor(pushed.size());
    float* to = values.as<float>().data();
    for (const std::uint32_t position : partitioner.positions(shard)) {
      merge.place(position, to);
      to += spec.dim;
    }
    parts.push_back({splitter.to(shard), key_tensor(pushed), std::move(values), {}});
  }
  if (auto merged = merge.run(gradients); !merged) return merged.error();
  return parts;
}

/// One call a shard, with all of its ranges: a second one under the push's name would be taken for a repeat.
Result<std::vector<TableClient::Core::Gradients>> TableClient::Core::copy_ranges(
    const Splitter& splitter, const shards::RowKeys& ranges, const float* gradients) const {
  auto shards = by_shard(splitter.partitioner, ranges);
  if (!shards) return shards.error();
  std::vector<Gradients> parts;
  for (const auto& [shard, pieces] : *shards) {
    std::uint64_t rows = 0;
    for (const Piece& piece : pieces) rows += piece.rows.size();
    Tensor values = gradient_tensor(rows);
    float* to = values.as<float>().data();
    for (const Piece& piece : pieces) {
      auto copied = shards::copy_gradients(spec, piece.rows.begin, piece.rows.size(),
                                           gradients + piece.at * spec.dim, to);
      if (!copied) return copied.error();
      to += piece.rows.size() * spec.dim;
    }
    parts.push_back({splitter.to(shard), tensor_of(pieces, node.endpoint().pool()), std::move(values), {}});
  }
  return parts;
}

Tensor TableClient::Core::gradient_tensor(std::uint64_t rows) const {
  return Tensor::empty(DType::kFloat32,
                       {static_cast<std::int64_t>(rows), static_cast<std::int64_t>(spec.dim)},
                       &node.endpoint().pool());
}

/// Another server's versions and generations are not those of the pull, nor known here.
Result<std::vector<TableClient::Core::Gradients>> TableClient::Core::split_again(const Gradients& part) {
  const Splitting splitting(*this);
  Tensor wide = part.values;
  if (wide.dtype() != DType::kFloat32) {
    wide = Tensor::empty(DType::kFloat32, part.values.shape(), &node.endpoint().pool());
    shards::widen(spec.weights, part.values.data(), static_cast<std::uint64_t>(wide.elements()),
                  wide.as<float>().data());
  }
  const float* const from = wide.as<const float>().data();
  const auto own = part.keys.as<const std::uint64_t>();
  auto parts = Result<std::vector<Gradients>>(std::vector<Gradients>());
  if (part.keys.rank() == 2) {
    std::vector<shards::RowRange> ranges;
    for (std::size_t i = 0; i < own.size(); i += 2) ranges.push_back({own[i], own[i] + own[i + 1]});
    parts = copy_ranges(*splitting, shards::RowKeys(std::span(ranges)), from);
    if (!parts) return parts;
  } else {
    shards::Partitioner& partitioner = splitting->partitioner;
    if (auto split = partitioner.split(own); !split) return split.error();
    for (std::uint32_t shard = 0; shard < partitioner.map().shards(); ++shard) {
      const auto pushed = partitioner.keys(shard);
      if (pushed.empty()) continue;
      Tensor values = gradient_tensor(pushed.size());
      partitioner.gather(shard, from, spec.dim, values.as<float>().data());
      parts->push_back({splitting->to(shard), key_tensor(pushed), std::move(values), {}});
    }
  }
  for (Gradients& each : *parts)
    if (each.to.number == part.to.number) each.pulled = part.pulled;
  if (auto made = make_half(*parts); !made) return made.error();
  return parts;
}

}  // namespace troupe
