#include "zero/weights.hpp"

#include "zero/elements.hpp"

namespace troupe::training::zero {

Weights::Weights(const Plan& plan, shards::Communicator& group, const ZeroOptions& options)
    : plan_(plan), group_(group), dtype_(options.dtype) {
  for (const Region& region : plan.regions())
    values_.push_back(flat(dtype_, region.whole() ? region.n : region.own));
  if (dtype_ != DType::kFloat32) masters_ = flat(DType::kFloat32, plan.own());
}

Tensor Weights::held(const Segment& segment) const {
  const Region& region = plan_.regions()[static_cast<std::size_t>(segment.region)];
  const Tensor& values = values_[static_cast<std::size_t>(segment.region)];
  const Range range = plan_.stepped(segment);
  return part(values, region.whole() ? range : Range{segment.own_at - region.own_at, range.n});
}

Tensor Weights::stepped(const Segment& segment) const {
  if (dtype_ == DType::kFloat32) return held(segment);
  return part(masters_, {segment.own_at, plan_.stepped(segment).n});
}

Result<void> Weights::publish(const Segment& segment) {
  const Tensor mine = held(segment);
  if (dtype_ != DType::kFloat32) fit_ = put(stepped(segment), mine, 1, Put::kReplace) && fit_;
  const Region& region = plan_.regions()[static_cast<std::size_t>(segment.region)];
  if (!plan_.cut() || !region.whole()) return {};
  return works_.add(group_.all_gather(mine, part(whole(segment.region), segment.range)));
}

Result<void> Weights::gather(int region, const Tensor& to, Works& works, Works& all) const {
  const Region& whole = plan_.regions()[static_cast<std::size_t>(region)];
  for (int i = 0; i < whole.segments; ++i) {
    const Segment& segment =
        plan_.segments()[static_cast<std::size_t>(whole.first) + static_cast<std::size_t>(i)];
    const shards::Work work = group_.all_gather(held(segment), part(to, segment.range));
    works.keep(work);
    if (Result<void> begun = all.add(work); !begun) return begun;
  }
  return {};
}

void Weights::set(int parameter, const Tensor& values) const {
  const Range segments = plan_.segments_of(parameter);
  for (std::int64_t i = 0; i < segments.n; ++i) {
    const Segment& segment = plan_.segments()[static_cast<std::size_t>(segments.at + i)];
    const Range range = plan_.stepped(segment);
    const Tensor to = stepped(segment);
    for (const Piece& piece : plan_.pieces(segment.region, range)) {
      if (piece.parameter != parameter) continue;
      (void)put(part(values, {piece.from, piece.n}), part(to, {piece.at - range.at, piece.n}), 1,
                Put::kReplace);
    }
  }
}

std::size_t Weights::bytes() const {
  std::size_t bytes = 0;
  for (const Tensor& each : values_) bytes += each.bytes();
  return bytes;
}

}  // namespace troupe::training::zero
