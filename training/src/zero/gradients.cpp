#include "zero/gradients.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include "zero/elements.hpp"

namespace troupe::training::zero {
namespace {

/// Reductions in place that may be under way at once.
constexpr std::size_t kMostInPlace = 64;

}  // namespace

Gradients::Gradients(const Plan& plan, shards::Communicator& group, const ZeroOptions& options)
    : plan_(plan),
      group_(group),
      options_(options),
      last_(plan.parameters() - 1),
      mean_factor_(1.0F / static_cast<float>(std::int64_t{plan.members()} * options.accumulation)),
      scaled_before_(options.dtype == DType::kFloat16),
      next_(last_),
      filled_(plan.segments().size()) {
  if (!keeps_whole())
    own_ = flat(options.dtype, plan.own());
  else if (!plan.regions().empty())
    whole_ = flat(options.dtype, plan.regions().front().n);
}

Result<void> Gradients::take(int parameter, const Tensor& gradient) {
  assert(parameter == next());
  const Place& place = plan_.place(parameter);
  const Tensor values = gradient.reshape(Shape{place.range.n});
  const Range segments = plan_.segments_of(parameter);
  // The last segment first: passes go backward through the region.
  for (std::int64_t i = segments.at + segments.n - 1; i >= segments.at; --i) {
    const Range& range = plan_.segments()[static_cast<std::size_t>(i)].range;
    const std::int64_t at = std::max(place.range.at, range.at);
    const std::int64_t n = std::min(place.range.at + place.range.n, range.at + range.n) - at;
    const Piece piece{parameter, at - place.range.at, at, n};
    const auto segment = static_cast<int>(i);
    Result<void> filled =
        keeps_whole() ? fill_whole(segment, piece, values) : fill_bucket(segment, piece, values);
    if (!filled) return filled;
  }
  if (--next_ >= 0) return {};
  next_ = last_;
  ++pass_;
  std::fill(filled_.begin(), filled_.end(), 0);
  return {};
}

Result<void> Gradients::fill_whole(int segment, const Piece& piece, const Tensor& gradient) {
  const Tensor to = part(whole_, {piece.at, piece.n});
  const bool fits = put(part(gradient, {piece.from, piece.n}), to, scaled_before_ ? mean_factor_ : 1.0F,
                        pass_ == 0 ? Put::kReplace : Put::kAdd);
  fit_ = fit_ && fits;
  const Segment& all = plan_.segments()[static_cast<std::size_t>(segment)];
  std::int64_t& filled = filled_[static_cast<std::size_t>(segment)];
  filled += piece.n;
  if (filled < all.used || pass_ + 1 < options_.accumulation) return {};
  const Tensor values = part(whole_, all.range);
  under_way_.push_back(
      {segment, values,
       plan_.cut() ? group_.reduce_scatter(values, part(whole_, plan_.share(all)), shards::ReduceOp::kSum)
                   : group_.all_reduce(values, shards::ReduceOp::kSum)});
  return settle(options_.overlap ? kMostInPlace : 0);
}

Tensor Gradients::new_bucket(const Segment& segment) {
  Tensor bucket = Tensor::empty(options_.dtype, Shape{segment.range.n});
  const std::size_t used = static_cast<std::size_t>(segment.used) * size_of(options_.dtype);
  std::memset(bucket.data() + used, 0, bucket.bytes() - used);
  bucket_bytes_ += bucket.bytes();
  most_bucket_bytes_ = std::max(most_bucket_bytes_, bucket_bytes_);
  return bucket;
}

Result<void> Gradients::fill_bucket(int segment, const Piece& piece, const Tensor& gradient) {
  const Segment& all = plan_.segments()[static_cast<std::size_t>(segment)];
  auto open = open_.find(segment);
  if (open == open_.end()) open = open_.emplace(segment, new_bucket(all)).first;
  const bool fits =
      put(part(gradient, {piece.from, piece.n}), part(open->second, {piece.at - all.range.at, piece.n}),
          scaled_before_ ? mean_factor_ : 1.0F, Put::kReplace);
  fit_ = fit_ && fits;
  std::int64_t& filled = filled_[static_cast<std::size_t>(segment)];
  filled += piece.n;
  if (filled < all.used) return {};
  Tensor bucket = std::move(open->second);
  open_.erase(open);
  const Range share = plan_.share(all);
  const Tensor mine = part(bucket, {share.at - all.range.at, share.n});
  shards::Work work = group_.reduce_scatter(bucket, mine, shards::ReduceOp::kSum);
  under_way_.push_back({segment, std::move(bucket), std::move(work)});
  return settle(options_.overlap ? 1 : 0);
}

Result<void> Gradients::settle(std::size_t rest) {
  while (under_way_.size() > rest) {
    const OnItsWay first = std::move(under_way_.front());
    under_way_.pop_front();
    Result<void> ended = first.work.wait();
    if (!keeps_whole()) bucket_bytes_ -= first.bucket.bytes();
    if (!ended) return ended;
    if (keeps_whole()) continue;
    // This may be of the last pass but one's end, so the count of passes does not tell whether it is the
    // first.
    const Segment& all = plan_.segments()[static_cast<std::size_t>(first.segment)];
    const Range share = plan_.share(all);
    const bool fits = put(part(first.bucket, {share.at - all.range.at, share.n}),
                          part(own_, {all.own_at, share.n}), 1.0F, Put::kAdd);
    fit_ = fit_ && fits;
  }
  return {};
}

Result<void> Gradients::finish() {
  return settle(0);
}

void Gradients::reset() {
  assert(under_way_.empty());
  pass_ = 0;
  next_ = last_;
  fit_ = true;
  std::fill(filled_.begin(), filled_.end(), 0);
  open_.clear();
  bucket_bytes_ = 0;
  if (own_.bytes() != 0) std::memset(own_.data(), 0, own_.bytes());
}

Tensor Gradients::stepped(const Segment& segment) const {
  const Range range = plan_.stepped(segment);
  return keeps_whole() ? part(whole_, range) : part(own_, {segment.own_at, range.n});
}

Tensor Gradients::share(const Segment& segment) const {
  return keeps_whole() ? part(whole_, plan_.share(segment)) : stepped(segment);
}

}  // namespace troupe::training::zero
