// A member: its parameters, gradients and steps.
#include "zero/member.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <new>
#include <utility>

#include "zero/elements.hpp"

namespace troupe::training::zero {

Member::Member(shards::Communicator& group, std::vector<ZeroParameter> parameters, ZeroOptions options)
    : parameters_(std::move(parameters)),
      options_(std::move(options)),
      parts_(std::make_unique<Parts>(parameters_, options_, group)),
      scaler_(options_.loss_scaling, options_.dtype) {}

Error Member::ended(Error why) {
  if (ended_) return *ended_;
  ended_ = std::move(why);
  if (parts_->group.state()) parts_->group.abort(*ended_);  // it is this member's alone: the others wait
  return *ended_;
}

Error Member::all_ended(Error why) {
  if (!ended_) ended_ = std::move(why);
  return *ended_;
}

Error Member::no_memory() {
  return ended(
      {Code::kResourceExhausted, "no memory for parameters, gradients or files that are on their way"});
}

Result<void> Member::usable() const {
  if (ended_) return *ended_;
  return {};
}

Error Member::not_whole() const {
  const Error why = ended_.value_or(Error{Code::kFailedPrecondition, "a restore has failed"});
  return {why.code, "parameters are not all of one step, go on from a checkpoint: " + why.message};
}

std::optional<Error> Member::fault_of(int index) const {
  if (index >= 0 && index < parts_->plan.parameters()) return {};
  return Error{Code::kInvalidArgument, "there is no parameter " + std::to_string(index) + " among " +
                                           std::to_string(parts_->plan.parameters())};
}

int Member::index_of(std::string_view name) const {
  const auto found = std::find_if(parameters_.begin(), parameters_.end(),
                                  [&](const ZeroParameter& each) { return each.name == name; });
  return found == parameters_.end() ? -1 : static_cast<int>(found - parameters_.begin());
}

ZeroMemory Member::memory() const {
  ZeroMemory memory;
  memory.parameters = parts_->weights.bytes();
  memory.gradients = parts_->gradients.bytes();
  memory.optimizer = parts_->stepper.bytes() + parts_->weights.master_bytes();
  memory.gathered = parts_->layers.bytes();
  memory.most_gathered = parts_->layers.most_bytes();
  memory.buckets = parts_->gradients.bucket_bytes();
  memory.most_buckets = parts_->gradients.most_bucket_bytes();
  return memory;
}

Result<void> Member::begin_layer(int layer) {
  if (Result<void> can = usable(); !can) return can;
  try {
    if (!parts_->layers.has(layer))
      return Error{Code::kInvalidArgument, "there is no layer " + std::to_string(layer) + " among " +
                                               std::to_string(parts_->plan.layers())};
    if (Result<void> begun = parts_->layers.begin(layer); !begun) return ended(begun.error());
    return {};
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
}

Result<void> Member::end_layer(int layer) {
  return parts_->layers.end(layer);
}

Result<Tensor> Member::parameter(int index) const {
  if (auto fault = fault_of(index)) return *fault;
  const ZeroParameter& wanted = parameters_[static_cast<std::size_t>(index)];
  if (!whole_) return not_whole();
  const Place& place = parts_->plan.place(index);
  const Region& region = parts_->plan.regions()[static_cast<std::size_t>(place.region)];
  if (region.whole()) return part(parts_->weights.whole(place.region), place.range).reshape(wanted.shape);
  if (const Tensor* values = parts_->layers.whole(place.region))
    return part(*values, place.range).reshape(wanted.shape);
  return Error{Code::kFailedPrecondition, "parameter '" + wanted.name + "' of layer " +
                                              std::to_string(wanted.layer) +
                                              " is not whole: begin_layer() comes before its use"};
}

Result<void> Member::gradient(int index, const Tensor& gradient) {
  if (Result<void> can = usable(); !can) return can;
  if (!whole_) return not_whole();
  if (auto fault = fault_of(index)) return *fault;
  const ZeroParameter& given = parameters_[static_cast<std::size_t>(index)];
  const int next = parts_->gradients.next();
  if (next < 0)
    return Error{Code::kFailedPrecondition, "gradient of '" + given.name +
                                                "': " + std::to_string(options_.accumulation) +
                                                " passes are there, step() comes next"};
  if (next != index)
    return Error{Code::kFailedPrecondition,
                 "gradient of '" + given.name + "' is out of order: that of '" +
                     parameters_[static_cast<std::size_t>(next)].name +
                     "' comes next. They come in the reverse order of the parameters"};
  if (gradient.dtype() != options_.dtype && gradient.dtype() != DType::kFloat32)
    return Error{Code::kInvalidArgument, "gradient of '" + given.name + "' is " + gradient.to_string() +
                                             ", expected " + std::string(troupe::to_string(options_.dtype)) +
                                             " or float32"};
  if (!(gradient.shape() == given.shape) || !gradient.is_contiguous() ||
      gradient.device().kind == MemoryKind::kDevice)
    return Error{Code::kInvalidArgument, "gradient of '" + given.name + "' is " + gradient.to_string() +
                                             ", expected " + given.shape.to_string() +
                                             ", contiguous and in host memory"};
  try {
    if (Result<void> taken = parts_->gradients.take(index, gradient); !taken) return ended(taken.error());
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
  if (parts_->gradients.between_passes()) parts_->layers.end_pass();
  return {};
}

Result<void> Member::drop_pass() {
  if (Result<void> can = usable(); !can) return can;
  if (Result<void> done = parts_->layers.drop_pass(); !done) return ended(done.error());
  if (Result<void> done = parts_->gradients.finish(); !done) return ended(done.error());
  parts_->gradients.reset();
  const std::uint64_t mine = parts_->layers.order();
  const auto all = exchange({mine});
  if (!all) return ended(all.error());
  if (std::all_of(all->begin(), all->end(), [&](std::uint64_t each) { return each == mine; })) return {};
  return all_ended({Code::kInvalidArgument, "the members have used their layers in different orders"});
}

Result<void> Member::ready_to_step() const {
  if (Result<void> can = usable(); !can) return can;
  if (!whole_) return not_whole();
  const int next = parts_->gradients.next();
  if (next >= 0)
    return Error{Code::kFailedPrecondition,
                 "step: the gradient of '" + parameters_[static_cast<std::size_t>(next)].name +
                     "' is missing, of pass " + std::to_string(parts_->gradients.pass() + 1) + " of " +
                     std::to_string(options_.accumulation)};
  if (const int layer = parts_->layers.in_use(); layer >= 0)
    return Error{Code::kFailedPrecondition,
                 "step: layer " + std::to_string(layer) + " is in use: end_layer() comes before"};
  return {};
}

Result<float> Member::rate() const {
  const float rate =
      options_.learning_rate ? options_.learning_rate(steps_) : options_.optimizer.get("learning_rate");
  if (std::isfinite(rate) && rate >= 0) return rate;
  return Error{Code::kInvalidArgument,
               "the learning rate of step " + std::to_string(steps_ + 1) + " is " + std::to_string(rate)};
}

Result<Member::Verdict> Member::agree(float rate) {
  if (Result<void> done = parts_->layers.drop_all(); !done) return done.error();
  if (Result<void> done = parts_->gradients.finish(); !done) return done.error();
  bool fits = true;
  double squared = 0;
  for (const Segment& segment : parts_->plan.segments())
    squared += squares(parts_->gradients.share(segment), fits);
  fits = fits && parts_->gradients.fit();
  const std::vector<std::uint64_t> mine = {std::bit_cast<std::uint64_t>(squared),
                                           std::uint64_t{fits},
                                           std::uint64_t{parts_->weights.fit()},
                                           steps_,
                                           parts_->layers.order(),
                                           std::bit_cast<std::uint32_t>(rate)};
  const auto all = exchange(mine);
  if (!all) return all.error();
  Verdict verdict;
  for (std::size_t i = 0; i < all->size(); i += mine.size()) {
    verdict.squares += std::bit_cast<double>((*all)[i]);
    verdict.fits = verdict.fits && (*all)[i + 1] == 1;
    verdict.weights_fit = verdict.weights_fit && (*all)[i + 2] == 1;
    if (std::equal(mine.begin() + 3, mine.end(), all->begin() + static_cast<std::ptrdiff_t>(i) + 3)) continue;
    return all_ended({Code::kInvalidArgument, "member " + std::to_string(i / mine.size()) +
                                                  " has used its layers in another order, or has another "
                                                  "step or learning rate, than member " +
                                                  std::to_string(parts_->group.rank())});
  }
  return verdict;
}

Result<ZeroStep> Member::step() {
  if (Result<void> ready = ready_to_step(); !ready) return ready.error();
  const Result<float> next_rate = rate();
  if (!next_rate) return next_rate.error();
  try {
    return step(*next_rate);
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
}

Result<ZeroStep> Member::step(float rate) {
  const Result<Verdict> verdict = agree(rate);
  if (!verdict) return ended(verdict.error());
  if (!verdict->weights_fit) {
    parts_->gradients.reset();
    return Error{Code::kOutOfRange, "parameters of step " + std::to_string(steps_) + " are too large for " +
                                        std::string(troupe::to_string(options_.dtype)) +
                                        ", or not finite: go on from a checkpoint"};
  }
  ZeroStep report;
  report.learning_rate = rate;
  report.loss_scale = scaler_.scale();
  const double factor = double{parts_->gradients.factor()} / double{report.loss_scale};
  report.norm = std::sqrt(verdict->squares) * factor;
  const bool finite = verdict->fits && std::isfinite(report.norm);
  report.step = steps_ + (finite ? 1 : 0);
  if (!finite) {
    parts_->gradients.reset();
    const bool scaled = options_.dtype == DType::kFloat16;
    if (!scaled || !scaler_.overflowed())
      return Error{Code::kOutOfRange,
                   "the gradients of step " + std::to_string(steps_ + 1) + " are not finite" +
                       (scaled ? ", also with the least loss scale" : "") + ": they have been dropped"};
    report.skipped = true;
    ++skipped_;
    return report;
  }
  whole_ = false;
  if (Result<void> updated = update(factor, report); !updated) return ended(updated.error());
  whole_ = true;
  scaler_.good();
  parts_->gradients.reset();
  return report;
}

Result<void> Member::update(double factor, ZeroStep& report) {
  report.clipped = options_.max_norm > 0 && report.norm > double{options_.max_norm};
  if (report.clipped) factor *= double{options_.max_norm} / report.norm;
  ++steps_;
  parts_->weights.forget_fit();
  Stepper& stepper = parts_->stepper;
  for (const Segment& segment : parts_->plan.segments()) {
    stepper.step(segment, parts_->weights.stepped(segment), parts_->gradients.stepped(segment),
                 static_cast<float>(factor), report.learning_rate, steps_);
    if (stepper.in_two_parts()) continue;
    if (Result<void> sent = parts_->weights.publish(segment); !sent) return sent;
  }
  if (stepper.in_two_parts()) {
    if (Result<void> summed = sum_norms(); !summed) return summed;
    for (const Segment& segment : parts_->plan.segments()) {
      stepper.finish(segment, parts_->weights.stepped(segment), report.learning_rate, steps_);
      if (Result<void> sent = parts_->weights.publish(segment); !sent) return sent;
    }
    stepper.forget_norms();
  }
  return parts_->weights.published();
}

Result<void> Member::sum_norms() {
  const std::vector<double>& mine = parts_->stepper.norms();
  if (!parts_->plan.cut()) return {};
  std::vector<std::uint64_t> bits(mine.size());
  std::transform(mine.begin(), mine.end(), bits.begin(),
                 [](double x) { return std::bit_cast<std::uint64_t>(x); });
  const auto all = exchange(bits);
  if (!all) return all.error();
  std::vector<double> sums(mine.size());
  for (std::size_t i = 0; i < all->size(); ++i) sums[i % sums.size()] += std::bit_cast<double>((*all)[i]);
  parts_->stepper.set_norms(std::move(sums));
  return {};
}

Result<void> Member::publish_all() {
  parts_->weights.forget_fit();
  for (const Segment& segment : parts_->plan.segments())
    if (Result<void> sent = parts_->weights.publish(segment); !sent) return sent;
  return parts_->weights.published();
}

Result<Tensor> Member::weights(int index) {
  if (Result<void> can = usable(); !can) return can.error();
  if (auto fault = fault_of(index)) return *fault;
  if (!whole_) return not_whole();
  try {
    return whole_weights(index);
  } catch (const std::bad_alloc&) {
    return no_memory();
  }
}

Result<Tensor> Member::whole_weights(int index) {
  const ZeroParameter& wanted = parameters_[static_cast<std::size_t>(index)];
  const Range segments = parts_->plan.segments_of(index);
  const Tensor values = flat(DType::kFloat32, wanted.shape.elements());
  for (std::int64_t i = 0; i < segments.n; ++i) {
    const Segment& segment = parts_->plan.segments()[static_cast<std::size_t>(segments.at + i)];
    const Range range = parts_->plan.stepped(segment);
    const Tensor from = parts_->weights.stepped(segment);
    for (const Piece& piece : parts_->plan.pieces(segment.region, range))
      if (piece.parameter == index)
        (void)put(part(from, {piece.at - range.at, piece.n}), part(values, {piece.from, piece.n}), 1,
                  Put::kReplace);
  }
  // All others have zeros there. In pieces: a communicator keeps memory for the largest tensor it has seen.
  const std::int64_t n = parts_->plan.cut() ? values.elements() : 0;
  for (std::int64_t at = 0; at < n; at += options_.bucket) {
    const Tensor piece = part(values, {at, std::min(options_.bucket, n - at)});
    if (Result<void> done = parts_->group.all_reduce(piece, shards::ReduceOp::kSum).wait(); !done)
      return ended(done.error());
  }
  return values.reshape(wanted.shape);
}

}  // namespace troupe::training::zero
