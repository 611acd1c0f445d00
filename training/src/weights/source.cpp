#include "source.hpp"

#include <utility>

namespace troupe::training {

WeightSource::WeightSource(Node& node) : node_(node) {
  watch_ = node_.watch([this](const MembershipChange& change) {
    if (change.event != MembershipEvent::kLeft && change.event != MembershipEvent::kDied) return;
    fetches_.erase(change.member.node_id);
    const auto gone = waiting_.extract(change.member.node_id);  // dropped last: that may call others
  });
}

void WeightSource::end() {
  node_.unwatch(watch_);
  fetches_.clear();
  const auto waiting = std::exchange(waiting_, {});
}

void WeightSource::methods(rpc::Methods<WeightSource>& methods) {
  methods.add("next", &WeightSource::next)
      .add("part", &WeightSource::part)
      .add("whole", &WeightSource::whole);
}

void WeightSource::set_generation(std::uint64_t generation) {
  if (generation_ == generation) return;
  generation_ = generation;
  for (auto& [node, waiting] : std::exchange(waiting_, {}))
    waiting.promise.set(Error{Code::kFailedPrecondition, "the stream has another publisher: join it again"});
}

void WeightSource::set(WeightVersionPtr version) {
  {
    const std::lock_guard lock(mutex_);
    std::swap(newest_, version);
  }
  for (auto& [node, waiting] : std::exchange(waiting_, {}))
    waiting.promise.set(begin_fetch(node, waiting.have, waiting.changes));
}

WeightVersionPtr WeightSource::newest() const {
  const std::lock_guard lock(mutex_);
  return newest_;
}

void WeightSource::drop_idle() {
  const TimePoint now = node_.loop().clock().now();
  std::erase_if(fetches_, [&](const auto& each) { return now - each.second.used > kIdleFetch; });
}

WeightNews WeightSource::news(std::uint64_t have, bool changes) const {
  WeightNews news;
  news.generation = newest_->generation;
  news.number = newest_->number;
  news.metadata = newest_->metadata;
  const auto& changed_in = newest_->changed_in;
  if (!changes || have == 0 || changed_in.empty()) return news;
  news.changes_known = true;
  for (std::size_t i = 0; i < changed_in.size(); ++i) {
    if (changed_in[i] <= have) continue;
    if (!news.pieces.empty() && *(news.pieces.end() - 2) + news.pieces.back() == i) {
      ++news.pieces.back();
    } else if (news.pieces.size() / 2 == kMostRuns) {
      news.changes_known = false;  // too scattered to be told
      news.pieces.clear();
      break;
    } else {
      news.pieces.push_back(i);
      news.pieces.push_back(1);
    }
  }
  return news;
}

WeightNews WeightSource::begin_fetch(std::uint64_t node, std::uint64_t have, bool changes) {
  fetches_[node] = {newest_, node_.loop().clock().now()};
  return news(have, changes);
}

rpc::Future<WeightNews> WeightSource::next(const rpc::CallContext& context, std::uint64_t generation,
                                           std::uint64_t have, bool wait, bool changes) {
  const std::uint64_t caller = node_.caller_of(context).node_id;
  fetches_.erase(caller);
  const auto earlier = waiting_.extract(caller);
  rpc::Promise<WeightNews> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  if (generation != generation_) {
    promise.set(Error{Code::kFailedPrecondition, "the stream has another publisher: join it again"});
  } else if (newest_ && newest_->generation == generation && newest_->number > have) {
    promise.set(begin_fetch(caller, have, changes));
  } else if (!wait) {
    WeightNews nothing;
    nothing.generation = generation;
    nothing.number = have;
    promise.set(std::move(nothing));
  } else {
    const std::uint64_t number = ++asked_;
    promise.on_cancel([this, caller, number] {
      const auto found = waiting_.find(caller);
      if (found == waiting_.end() || found->second.number != number) return;
      const auto gone = waiting_.extract(found);
    });
    waiting_.emplace(caller, Waiting{have, changes, number, std::move(promise)});
  }
  return future;
}

Result<WeightVersionPtr> WeightSource::fetched(const rpc::CallContext& context, std::uint64_t generation,
                                               std::uint64_t number) {
  const auto matches = [&](const WeightVersionPtr& version) {
    return version && version->generation == generation && version->number == number;
  };
  if (const auto found = fetches_.find(node_.caller_of(context).node_id);
      found != fetches_.end() && matches(found->second.version)) {
    found->second.used = node_.loop().now();
    return found->second.version;
  }
  if (matches(newest_)) return newest_;
  return Error{Code::kFailedPrecondition,
               "version " + std::to_string(number) + " is not kept here any more: fetch the newest one"};
}

Result<Tensor> WeightSource::part(const rpc::CallContext& context, std::uint64_t generation,
                                  std::uint64_t number, std::uint64_t offset, std::uint64_t bytes) {
  auto version = fetched(context, generation, number);
  if (!version) return std::move(version).error();
  const std::uint64_t all = (*version)->layout->bytes;
  if (bytes == 0 || bytes > kLongestPart || offset >= all || bytes > all - offset)
    return Error{Code::kInvalidArgument, "a part of " + std::to_string(bytes) + " bytes from " +
                                             std::to_string(offset) + " of a version of " +
                                             std::to_string(all)};
  bytes_out_ += bytes;
  return Tensor(DType::kUInt8, Shape{static_cast<std::int64_t>(bytes)},
                (*version)->slab.slice(offset, bytes));
}

Result<Tensor> WeightSource::whole(const rpc::CallContext& context, std::uint64_t generation,
                                   std::uint64_t number) {
  auto version = fetched(context, generation, number);
  if (!version) return std::move(version).error();
  return Tensor(DType::kUInt8, Shape{static_cast<std::int64_t>((*version)->layout->bytes)}, (*version)->slab);
}

}  // namespace troupe::training
