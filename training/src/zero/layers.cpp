#include "zero/layers.hpp"

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

namespace troupe::training::zero {
namespace {

/// Of FNV-1a, 64 bits.
constexpr std::uint64_t kHashBegin = 14695981039346656037U;
constexpr std::uint64_t kHashFactor = 1099511628211U;

/// A program that only looks at its model has no passes that end.
constexpr std::size_t kLongestPass = 1 << 16;

}  // namespace

Layers::Layers(const Plan& plan, const Weights& weights, const ZeroOptions& options)
    : plan_(plan),
      weights_(weights),
      options_(options),
      gathered_(plan.regions().size()),
      users_(static_cast<std::size_t>(plan.layers())),
      hash_(kHashBegin) {}

void Layers::note(int layer) {
  hash_ = (hash_ ^ static_cast<std::uint64_t>(layer + 1)) * kHashFactor;
  if (seen_.size() == kLongestPass) end_pass();
  seen_.push_back(layer);
  known_ = known_ && seen_.size() <= order_.size() && order_[seen_.size() - 1] == layer;
}

void Layers::end_pass() {
  order_ = std::move(seen_);
  seen_.clear();
  known_ = true;
}

Result<void> Layers::begin(int layer) {
  if (layer < 0 || layer >= plan_.layers())
    return Error{Code::kInvalidArgument,
                 "there is no layer " + std::to_string(layer) + " among " + std::to_string(plan_.layers())};
  ++users_[static_cast<std::size_t>(layer)];
  const int region = plan_.region_of_layer(layer);
  if (region < 0) return {};
  note(layer);
  ++of(region).users;
  if (Result<void> begun = begin_gather(region); !begun) return begun;
  if (Result<void> begun = prefetch(); !begun) return begun;
  if (of(region).there) return {};
  if (Result<void> ended = of(region).works.wait(); !ended) return ended;
  of(region).there = true;
  return {};
}

Result<void> Layers::begin_gather(int region) {
  Gathered& each = of(region);
  if (each.begun) return {};
  each.begun = true;
  each.values = Tensor::empty(options_.dtype, Shape{size(region)});
  live_ += size(region);
  bytes_ += each.values.bytes();
  most_bytes_ = std::max(most_bytes_, bytes_);
  return weights_.gather(region, each.values, each.works);
}

Result<void> Layers::prefetch() {
  if (!known_) return {};
  std::int64_t rest = options_.prefetch;
  for (std::size_t i = seen_.size(); i < order_.size() && rest > 0; ++i) {
    const int region = plan_.region_of_layer(order_[i]);
    if (of(region).there || of(region).users > 0) continue;
    if (!of(region).begun) {
      if (live_ + size(region) > options_.max_live) return {};
      if (Result<void> begun = begin_gather(region); !begun) return begun;
    }
    rest -= size(region);
  }
  return {};
}

bool Layers::worth_keeping(int layer) const {
  if (!known_ || live_ > options_.max_live) return false;
  std::int64_t distance = 0;
  for (std::size_t i = seen_.size(); i < order_.size(); ++i) {
    if (order_[i] == layer) return true;
    distance += size(plan_.region_of_layer(order_[i]));
    if (distance > options_.reuse_distance) return false;
  }
  return false;
}

Result<void> Layers::end(int layer) {
  if (layer < 0 || layer >= plan_.layers() || users_[static_cast<std::size_t>(layer)] == 0)
    return Error{Code::kFailedPrecondition,
                 "layer " + std::to_string(layer) + " has not begun: begin_layer() comes before end_layer()"};
  --users_[static_cast<std::size_t>(layer)];
  const int region = plan_.region_of_layer(layer);
  if (region < 0 || --of(region).users > 0 || worth_keeping(layer)) return {};
  drop(region);
  return {};
}

void Layers::drop(int region) {
  Gathered& each = of(region);
  if (!each.begun) return;
  live_ -= size(region);
  bytes_ -= each.values.bytes();
  each = {};
}

int Layers::in_use() const {
  const auto used = std::find_if(users_.begin(), users_.end(), [](int users) { return users > 0; });
  return used == users_.end() ? -1 : static_cast<int>(used - users_.begin());
}

Result<void> Layers::drop_all() {
  assert(in_use() < 0);
  Result<void> first;
  for (std::size_t i = 0; i < gathered_.size(); ++i) {
    Result<void> ended = gathered_[i].works.wait();
    if (first) first = std::move(ended);
    drop(static_cast<int>(i));
  }
  return first;
}

const Tensor* Layers::whole(int region) const {
  const Gathered& each = gathered_[static_cast<std::size_t>(region)];
  return each.there && each.users > 0 ? &each.values : nullptr;
}

}  // namespace troupe::training::zero
