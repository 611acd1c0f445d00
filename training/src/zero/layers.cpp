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
  const auto as_before = [&] { return seen_.size() < order_.size() && order_[seen_.size()] == layer; };
  // Whoever only looks at the model goes forward and not back: the next pass begins at the front again.
  if (known_ && !as_before() && !order_.empty() && order_.front() == layer && in_use_but(layer) < 0) {
    seen_.clear();
    drop_unused();
  }
  if (known_ && !as_before()) {
    known_ = false;
    drop_unused();
  }
  seen_.push_back(layer);
}

void Layers::end_pass() {
  order_ = std::move(seen_);
  seen_.clear();
  known_ = true;
}

Result<void> Layers::begin(int layer) {
  assert(layer >= 0 && layer < plan_.layers());
  ++users_[static_cast<std::size_t>(layer)];
  const int region = plan_.region_of_layer(layer);
  if (region < 0) return {};
  ++of(region).users;
  note(layer);
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
  if (live_ + size(region) > options_.max_live) drop_unused();
  each.values = Tensor::empty(options_.dtype, Shape{size(region)});
  each.begun = true;
  live_ += size(region);
  bytes_ += each.values.bytes();
  most_bytes_ = std::max(most_bytes_, bytes_);
  return weights_.gather(region, each.values, each.works, under_way_);
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

void Layers::drop_unused() {
  for (std::size_t i = 0; i < gathered_.size(); ++i)
    if (gathered_[i].users == 0) drop(static_cast<int>(i));
}

int Layers::in_use_but(int layer) const {
  for (std::size_t i = 0; i < users_.size(); ++i)
    if (users_[i] > (static_cast<int>(i) == layer ? 1 : 0)) return static_cast<int>(i);
  return -1;
}

Result<void> Layers::drop_all() {
  assert(in_use() < 0);
  Result<void> ended = under_way_.wait();
  drop_unused();
  return ended;
}

Result<void> Layers::drop_pass() {
  std::fill(users_.begin(), users_.end(), 0);
  for (Gathered& each : gathered_) each.users = 0;
  seen_.clear();
  known_ = true;
  return drop_all();
}

const Tensor* Layers::whole(int region) const {
  const Gathered& each = gathered_[static_cast<std::size_t>(region)];
  return each.there && each.users > 0 ? &each.values : nullptr;
}

}  // namespace troupe::training::zero
