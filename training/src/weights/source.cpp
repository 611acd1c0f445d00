#include "source.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include <troupe/runtime/shared_pool.hpp>

namespace troupe::training {

WeightSource::WeightSource(Node& node) : node_(node), idle_([this] { drop_idle(); }) {}

void WeightSource::begin(std::function<Coming()> coming) {
  coming_ = std::move(coming);
  watch_ = node_.watch([this](const MembershipChange& change) {
    if (change.event != MembershipEvent::kLeft && change.event != MembershipEvent::kDied) return;
    fetches_.erase(change.member.node_id);
    const auto gone = waiting_.extract(change.member.node_id);  // dropped last: that may call others
  });
  listens_ = true;
}

void WeightSource::end() {
  ended_ = true;
  if (std::exchange(listens_, false)) node_.unwatch(watch_);
  node_.loop().cancel(idle_);
  coming_ = nullptr;
  fetches_.clear();
  const auto waiting = std::exchange(waiting_, {});
}

void WeightSource::methods(rpc::Methods<WeightSource>& methods) {
  methods.add("next", &WeightSource::next)
      .add("part", &WeightSource::part)
      .add("whole", &WeightSource::whole)
      .add("coming", &WeightSource::coming);
}

void WeightSource::set_generation(std::uint64_t generation) {
  if (generation_ == generation) return;
  generation_ = generation;
  for (auto& [node, waiting] : std::exchange(waiting_, {}))
    waiting.promise.set(Error{Code::kFailedPrecondition, "the stream has another publisher: join it again"});
}

void WeightSource::set(WeightVersionPtr version) {
  const std::uint64_t number = version->number;
  {
    const std::lock_guard lock(mutex_);
    std::swap(newest_, version);
  }
  // A reader that was told by another parent before may have a newer one.
  std::map<std::uint64_t, Waiting> told;
  for (auto each = waiting_.begin(); each != waiting_.end();) {
    const auto next = std::next(each);
    if (each->second.have < number) told.insert(waiting_.extract(each));
    each = next;
  }
  std::map<std::uint64_t, WeightNews> changes;  // by what one has
  for (auto& [node, waiting] : told) {
    WeightNews news;
    if (waiting.changes) {
      const auto known = changes.find(waiting.have);
      news = known != changes.end()
                 ? known->second
                 : changes.emplace(waiting.have, this->news(waiting.have, true)).first->second;
    } else {
      news = this->news(waiting.have, false);
    }
    begin_fetch(node, news);
    waiting.promise.set(std::move(news));
  }
}

WeightVersionPtr WeightSource::newest() const {
  const std::lock_guard lock(mutex_);
  return newest_;
}

WeightSource::Coming WeightSource::coming() const {
  return coming_ ? coming_() : Coming{0, 0};
}

void WeightSource::drop_idle() {
  const TimePoint now = node_.loop().clock().now();
  std::erase_if(fetches_, [&](const auto& each) { return now - each.second.used >= kIdleFetch; });
  if (!fetches_.empty()) node_.loop().schedule_after(idle_, kIdleFetch);
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

void WeightSource::begin_fetch(std::uint64_t node, const WeightNews& news) {
  std::uint64_t bytes = newest_->layout->bytes;
  if (news.changes_known) {
    const std::uint64_t pieces = newest_->changed_in.size();
    std::uint64_t changed = 0;
    for (std::size_t i = 1; i < news.pieces.size(); i += 2) changed += news.pieces[i];
    bytes = std::min(bytes, changed * ((bytes + pieces - 1) / pieces));
  }
  if (bytes == 0) return;
  fetches_[node] = {newest_, node_.loop().clock().now(), bytes};
  if (!idle_.scheduled()) node_.loop().schedule_after(idle_, kIdleFetch);
}

Result<std::uint64_t> WeightSource::caller_of(const rpc::CallContext& context) const {
  const std::uint64_t id = node_.caller_of(context).node_id;
  if (id == 0) return Error{Code::kFailedPrecondition, "only members of the cluster read a stream"};
  return id;
}

rpc::Future<WeightNews> WeightSource::next(const rpc::CallContext& context, std::uint64_t generation,
                                           std::uint64_t have, bool wait, bool changes) {
  rpc::Promise<WeightNews> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  const auto caller = caller_of(context);
  if (!caller) {
    promise.set(caller.error());
    return future;
  }
  if (ended_) {
    promise.set(Error{Code::kUnavailable, "this end of the stream has ended"});
    return future;
  }
  fetches_.erase(*caller);
  const auto earlier = waiting_.extract(*caller);
  if (generation != generation_) {
    promise.set(Error{Code::kFailedPrecondition, "the stream has another publisher: join it again"});
  } else if (newest_ && newest_->generation == generation && newest_->number > have) {
    WeightNews told = news(have, changes);
    begin_fetch(*caller, told);
    promise.set(std::move(told));
  } else if (!wait) {
    WeightNews nothing;
    nothing.generation = generation;
    nothing.number = have;
    promise.set(std::move(nothing));
  } else {
    const std::uint64_t number = ++asked_;
    // The call may be all that still keeps this object.
    promise.on_cancel([weak = weak_from_this(), id = *caller, number] {
      const auto self = weak.lock();
      if (!self) return;
      const auto found = self->waiting_.find(id);
      if (found == self->waiting_.end() || found->second.number != number) return;
      const auto gone = self->waiting_.extract(found);
    });
    waiting_.emplace(*caller, Waiting{have, changes, number, std::move(promise)});
  }
  return future;
}

Result<WeightVersionPtr> WeightSource::fetched(std::uint64_t caller, std::uint64_t generation,
                                               std::uint64_t number) {
  const auto matches = [&](const WeightVersionPtr& version) {
    return version && version->generation == generation && version->number == number;
  };
  const auto found = fetches_.find(caller);
  if (found != fetches_.end() && matches(found->second.version)) {
    found->second.used = node_.loop().now();
    return found->second.version;
  }
  if (matches(newest_)) return newest_;
  return Error{Code::kFailedPrecondition,
               "version " + std::to_string(number) + " is not kept here any more: fetch the newest one"};
}

/// What was given to a message is kept by that.
void WeightSource::gave(std::uint64_t caller, const WeightVersionPtr& version, std::uint64_t bytes) {
  const auto found = fetches_.find(caller);
  if (found == fetches_.end() || found->second.version != version) return;
  found->second.left -= std::min(found->second.left, bytes);
  if (found->second.left == 0) fetches_.erase(found);
}

Result<Tensor> WeightSource::part(const rpc::CallContext& context, std::uint64_t generation,
                                  std::uint64_t number, std::uint64_t offset, std::uint64_t bytes) {
  const auto caller = caller_of(context);
  if (!caller) return caller.error();
  auto version = fetched(*caller, generation, number);
  if (!version) return std::move(version).error();
  const std::uint64_t all = (*version)->layout->bytes;
  if (bytes == 0 || bytes > kLongestPart || offset >= all || bytes > all - offset)
    return Error{Code::kInvalidArgument, "a part of " + std::to_string(bytes) + " bytes from " +
                                             std::to_string(offset) + " of a version of " +
                                             std::to_string(all)};
  bytes_out_ += bytes;
  gave(*caller, *version, bytes);
  return Tensor(DType::kUInt8, Shape{static_cast<std::int64_t>(bytes)},
                (*version)->slab.slice(offset, bytes));
}

Result<Tensor> WeightSource::whole(const rpc::CallContext& context, std::uint64_t generation,
                                   std::uint64_t number) {
  const auto caller = caller_of(context);
  if (!caller) return caller.error();
  auto version = fetched(*caller, generation, number);
  if (!version) return std::move(version).error();
  if (!SharedPool::locate((*version)->slab))
    return Error{Code::kOutOfRange,
                 "version " + std::to_string(number) + " cannot be mapped: fetch its parts"};
  const std::uint64_t bytes = (*version)->layout->bytes;
  gave(*caller, *version, bytes);
  return Tensor(DType::kUInt8, Shape{static_cast<std::int64_t>(bytes)}, (*version)->slab);
}

}  // namespace troupe::training
