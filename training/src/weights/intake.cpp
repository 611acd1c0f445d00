#include "intake.hpp"

#include <algorithm>
#include <cstring>
#include <exception>

#include <troupe/runtime/shared_pool.hpp>

namespace troupe::training {

WeightIntake::WeightIntake(Node& node, From from, std::shared_ptr<const WeightLayout> layout, WeightNews news,
                           WeightVersionPtr base, Done done)
    : node_(node),
      from_(std::move(from)),
      layout_(std::move(layout)),
      news_(std::move(news)),
      base_(std::move(base)),
      done_(std::move(done)) {}

std::shared_ptr<WeightIntake> WeightIntake::begin(Node& node, From from,
                                                  std::shared_ptr<const WeightLayout> layout, WeightNews news,
                                                  WeightVersionPtr base, Done done) {
  std::shared_ptr<WeightIntake> intake(new WeightIntake(node, std::move(from), std::move(layout),
                                                        std::move(news), std::move(base), std::move(done)));
  intake->guarded([&] {
    if (intake->from_.by_mapping && intake->layout_->bytes >= SharedPool::kSmallest)
      intake->map();
    else
      intake->by_parts();
  });
  return intake;
}

void WeightIntake::cancel() {
  done_ = nullptr;
  for (rpc::Future<Tensor>& call : std::exchange(calls_, {})) call.cancel();
}

void WeightIntake::guarded(const std::function<void()>& step) {
  try {
    step();
  } catch (const std::exception& exception) {
    finish(Error{Code::kResourceExhausted, "a version of " + std::to_string(layout_->bytes) +
                                               " bytes could not be taken: " + exception.what()});
  }
}

/// What to fetch and what to copy. The news may say anything.
Result<void> WeightIntake::plan() {
  const std::uint64_t bytes = layout_->bytes;
  const std::uint64_t pieces = layout_->pieces(from_.piece_bytes);
  const bool changes = news_.changes_known && pieces > 0 && base_ && base_->layout->bytes == bytes;
  if (!changes) {
    base_.reset();
    to_fetch_ = {{0, bytes}};
    return {};
  }
  std::uint64_t next = 0;
  const auto add = [&](std::vector<Run>& runs, std::uint64_t begin, std::uint64_t end) {
    if (begin < end) runs.push_back({begin * from_.piece_bytes, std::min(end * from_.piece_bytes, bytes)});
  };
  if (news_.pieces.size() % 2 != 0) return Error{Code::kDataLoss, "news of weights with half a run"};
  for (std::size_t i = 0; i < news_.pieces.size(); i += 2) {
    const std::uint64_t first = news_.pieces[i], count = news_.pieces[i + 1];
    if (first < next || first >= pieces || count == 0 || count > pieces - first)
      return Error{Code::kDataLoss, "news of weights with pieces that cannot be"};
    add(to_copy_, next, first);
    add(to_fetch_, first, first + count);
    next = first + count;
  }
  add(to_copy_, next, pieces);
  std::reverse(to_copy_.begin(), to_copy_.end());
  std::reverse(to_fetch_.begin(), to_fetch_.end());
  return {};
}

void WeightIntake::map() {
  auto call = node_.rpc_async_with<Tensor>({.timeout = from_.part_timeout, .detached = true}, from_.actor,
                                           "whole", news_.generation, news_.number);
  calls_.push_back(call);
  call.then([self = shared_from_this()](Result<Tensor> whole) {
    if (self->done_) self->guarded([&] { self->mapped(std::move(whole)); });
  });
}

void WeightIntake::mapped(Result<Tensor> whole) {
  if (!whole) {
    // It cannot be mapped, or is too long for one message that has to be copied.
    const Code code = whole.error().code;
    counts_.could_not_map = code == Code::kDeadlineExceeded || code == Code::kResourceExhausted;
    if (!counts_.could_not_map && code != Code::kInvalidArgument && code != Code::kOutOfRange)
      return finish(std::move(whole).error());
    return by_parts();
  }
  const auto bytes = static_cast<std::int64_t>(layout_->bytes);
  if (whole->dtype() != DType::kUInt8 || whole->shape() != Shape{bytes} || !whole->is_contiguous() ||
      whole->device().kind != MemoryKind::kHost)
    return finish(Error{Code::kDataLoss, "weights came as " + whole->to_string()});
  counts_.could_not_map = !whole->read_only();
  (whole->read_only() ? counts_.mapped : counts_.received) = layout_->bytes;
  const auto offset = static_cast<std::size_t>(whole->data() - whole->buffer().data());
  finish(version(whole->buffer().slice(offset, whole->bytes())));
}

void WeightIntake::by_parts() {
  if (auto planned = plan(); !planned) return finish(std::move(planned).error());
  slab_ = Tensor::empty(DType::kUInt8, Shape{static_cast<std::int64_t>(layout_->bytes)},
                        node_.endpoint().shared_pool());
  if (!to_copy_.empty()) copy_on();
  ask_on();
}

void WeightIntake::ask_on() {
  if (std::exchange(asking_, true)) return;  // an answer that came at once
  while (done_ && in_flight_ < kInFlight && !to_fetch_.empty()) {
    Run& run = to_fetch_.back();
    const Run part{run.begin, std::min(run.begin + from_.part_bytes, run.end)};
    run.begin = part.end;
    if (run.begin == run.end) to_fetch_.pop_back();
    const auto place =
        rpc::into(slab_.rows(static_cast<std::int64_t>(part.begin), static_cast<std::int64_t>(part.end)));
    auto call = node_.rpc_async_with<Tensor>({.timeout = from_.part_timeout, .detached = true, .into = place},
                                             from_.actor, "part", news_.generation, news_.number, part.begin,
                                             part.end - part.begin);
    std::erase_if(calls_, [](const auto& each) { return each.ready(); });
    calls_.push_back(call);
    ++in_flight_;
    call.then([self = shared_from_this(), bytes = part.end - part.begin](Result<Tensor> came) {
      --self->in_flight_;
      if (!self->done_) return;
      if (!came) return self->finish(std::move(came).error());
      self->counts_.received += bytes;
      self->guarded([&] { self->ask_on(); });
    });
  }
  asking_ = false;
  finish_if_whole();
}

void WeightIntake::copy_on() {
  if (!done_) return;
  Run& run = to_copy_.back();
  const std::uint64_t end = std::min(run.begin + kCopyAtOnce, run.end);
  std::memcpy(slab_.data() + run.begin, base_->slab.data() + run.begin, end - run.begin);
  counts_.kept += end - run.begin;
  run.begin = end;
  if (run.begin == run.end) to_copy_.pop_back();
  if (to_copy_.empty()) return finish_if_whole();
  node_.loop().post([self = shared_from_this()] { self->guarded([&] { self->copy_on(); }); });
}

void WeightIntake::finish_if_whole() {
  if (done_ && in_flight_ == 0 && to_fetch_.empty() && to_copy_.empty()) finish(version(slab_.buffer()));
}

WeightVersionPtr WeightIntake::version(Buffer slab) const {
  auto version = std::make_shared<WeightVersion>();
  version->layout = layout_;
  version->generation = news_.generation;
  version->number = news_.number;
  version->metadata = news_.metadata;
  version->slab = std::move(slab);
  // For those that it is sent on to. What is not known to be older may have changed in this version.
  const std::uint64_t pieces = layout_->pieces(from_.piece_bytes);
  if (base_ && news_.changes_known && base_->changed_in.size() == pieces) {
    version->changed_in = base_->changed_in;
    for (std::size_t i = 0; i + 1 < news_.pieces.size(); i += 2)
      for (std::uint64_t piece = 0; piece < news_.pieces[i + 1]; ++piece)
        version->changed_in[news_.pieces[i] + piece] = news_.number;
  } else {
    version->changed_in.assign(pieces, news_.number);
  }
  return version;
}

void WeightIntake::finish(Result<WeightVersionPtr> result) {
  const Done done = std::exchange(done_, nullptr);
  for (rpc::Future<Tensor>& call : std::exchange(calls_, {})) call.cancel();  // what is still under way
  if (done) done(std::move(result), counts_);
}

}  // namespace troupe::training
