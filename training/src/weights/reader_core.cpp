#include "reader_core.hpp"

#include <algorithm>
#include <exception>
#include <iterator>
#include <utility>

#include "names.hpp"

namespace troupe::training {

WeightReader::Core::Core(Node& node, std::string stream, WeightReaderOptions options)
    : node_(node),
      stream_(std::move(stream)),
      options_(std::move(options)),
      own_place_(options_.place.empty() ? own_place(node) : options_.place),
      again_([this] { guarded(weak_from_this(), [](Core& self) { self.join(); }); }),
      expiry_([this] { expire_refreshes(); }),
      random_(node.id()) {}

WeightReader::Core::~Core() = default;

template <class Step>
void WeightReader::Core::guarded(const std::weak_ptr<Core>& weak, Step step) {
  const auto self = weak.lock();
  if (!self || self->closed_) return;
  try {
    step(*self);
  } catch (const std::exception& exception) {
    if (!self->closed_)
      self->begin_again({Code::kResourceExhausted, "stream '" + self->stream_ + "': " + exception.what()});
  }
}

Result<void> WeightReader::Core::start() {
  source_ = std::make_shared<WeightSource>(node_);
  rpc::Methods<WeightSource> methods;
  WeightSource::methods(methods);
  if (auto made = node_.spawn_state(actor(), source_, methods.table()); !made) return made;
  source_->begin([weak = weak_from_this()] {
    const auto self = weak.lock();
    return self && self->intake_ ? WeightSource::Coming{self->intake_->number(), self->intake_->came()}
                                 : WeightSource::Coming{0, 0};
  });
  if (options_.follow) join();
  return {};
}

void WeightReader::Core::close() {
  if (std::exchange(closed_, true)) return;
  node_.loop().cancel(again_);
  node_.loop().cancel(expiry_);
  if (intake_) intake_->cancel();
  intake_.reset();
  fail_refreshes({Code::kCancelled, "the reader of stream '" + stream_ + "' has ended"});
  if (has_joined_) static_cast<void>(node_.send_with({.detached = true}, publisher_actor(stream_), "leave"));
  source_->end();
}

std::shared_ptr<const Weights> WeightReader::Core::newest() const {
  const std::lock_guard lock(mutex_);
  return newest_;
}

WeightReader::Stats WeightReader::Core::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

WeightReader::Core::Version WeightReader::Core::have() const {
  return whole_ ? Version{whole_->generation, whole_->number} : Version{0, 0};
}

void WeightReader::Core::join() {
  busy_ = true;
  has_joined_ = true;
  place_.parent.clear();
  const std::uint64_t knows = layout_ ? place_.generation : 0;
  node_
      .rpc_async_with<WeightPlace>({.timeout = options_.silence_limit, .detached = true},
                                   publisher_actor(stream_), "join", own_place_, options_.follow, avoid_,
                                   knows)
      .then([weak = weak_from_this()](Result<WeightPlace> place) {
        guarded(weak, [&](Core& self) { self.joined(std::move(place)); });
      });
}

void WeightReader::Core::joined(Result<WeightPlace> place) {
  if (!place) {
    // No publisher: who has asked hears of it, who follows waits for the next one.
    if (place.error().code == Code::kNotFound || place.error().code == Code::kCancelled)
      fail_refreshes(place.error());
    return begin_again(place.error());
  }
  const auto badly = [&](const std::string& why) {
    begin_again({Code::kDataLoss, "the publisher of stream '" + stream_ + "' describes it badly" + why});
  };
  if (place->generation == 0 || place->parent.empty() || place->part_bytes == 0 ||
      place->part_bytes > WeightSource::kLongestPart || place->names.size() != place->dtypes.size() ||
      place->names.size() != place->shapes.size())
    return badly("");
  if (!layout_ || place->generation != place_.generation) {
    std::vector<WeightSpec> specs;
    try {
      for (std::size_t i = 0; i < place->names.size(); ++i) {
        if (place->dtypes[i] > static_cast<std::uint8_t>(DType::kBool)) throw BadTensor("no such dtype");
        specs.push_back(
            {std::move(place->names[i]), static_cast<DType>(place->dtypes[i]), Shape(place->shapes[i])});
      }
    } catch (const BadTensor& bad) {
      return badly(std::string(": ") + bad.what());
    }
    auto layout = WeightLayout::of(std::move(specs));
    if (!layout) return begin_again(layout.error());
    if (place->piece_bytes != 0 && (*layout)->pieces(place->piece_bytes) == 0)
      return badly(": too many pieces");
    layout_ = std::move(*layout);
  }
  place_ = std::move(*place);
  can_map_ = true;
  doubted_.reset();
  // What an earlier publisher had will not come any more.
  for (Refresh& each : refreshes_)
    if (each.wanted.first != place_.generation) each.wanted = {place_.generation, 1};
  source_->set_generation(place_.generation);
  {
    const std::lock_guard lock(mutex_);
    stats_.parent = place_.parent;
    ++stats_.attached;
  }
  serve_refreshes();
  ask();
}

void WeightReader::Core::ask() {
  if (!wants_more()) {
    busy_ = false;
    return;
  }
  busy_ = true;
  asked_at_ = node_.loop().clock().now();
  const std::uint64_t have = whole_ && whole_->generation == place_.generation ? whole_->number : 0;
  node_
      .rpc_async_with<WeightNews>({.timeout = options_.silence_limit, .detached = true}, place_.parent,
                                  "next", place_.generation, have, true, options_.only_changes)
      .then([weak = weak_from_this()](Result<WeightNews> news) {
        guarded(weak, [&](Core& self) { self.told(std::move(news)); });
      });
}

void WeightReader::Core::told(Result<WeightNews> news) {
  if (!news) {
    const Code code = news.error().code;
    const bool waited = node_.loop().clock().now() - asked_at_ >= options_.silence_limit / 2;
    if (code == Code::kDeadlineExceeded && waited) return ask_whether_all_is_well();
    // One that has not heard of the new publisher yet is nobody to be avoided.
    return begin_again(news.error(), code == Code::kFailedPrecondition ? "" : place_.parent);
  }
  const std::uint64_t have = whole_ && whole_->generation == place_.generation ? whole_->number : 0;
  if (news->generation != place_.generation || news->number <= have)
    return begin_again({Code::kDataLoss, "'" + place_.parent + "' told of a version that is not newer"},
                       place_.parent);
  take(std::move(*news));
}

/// Nothing new for a while: is that so, or is the parent cut off?
void WeightReader::Core::ask_whether_all_is_well() {
  node_
      .rpc_async_with<Version>({.timeout = options_.silence_limit, .detached = true},
                               publisher_actor(stream_), "newest")
      .then([weak = weak_from_this()](Result<Version> newest) {
        guarded(weak, [&](Core& self) {
          if (!newest) return self.begin_again(newest.error());
          if (newest->first != self.place_.generation)
            return self.begin_again({Code::kFailedPrecondition, "the stream has another publisher"});
          if (newest->second != 0 && *newest != self.have()) return self.doubt(newest->second);
          self.doubted_.reset();
          self.serve_refreshes();
          self.ask();
        });
      });
}

/// There is a newer version than the parent has told of: it may be fetching that itself, and then gets on.
void WeightReader::Core::doubt(std::uint64_t newest) {
  node_
      .rpc_async_with<WeightSource::Coming>({.timeout = options_.silence_limit, .detached = true},
                                            place_.parent, "coming")
      .then([weak = weak_from_this(), newest](Result<WeightSource::Coming> coming) {
        guarded(weak, [&](Core& self) {
          if (!coming) return self.begin_again(coming.error(), self.place_.parent);
          if (self.doubted_ != *coming) {
            self.doubted_ = *coming;
            return self.ask();
          }
          self.begin_again({Code::kUnavailable,
                            "'" + self.place_.parent + "' has not told of version " + std::to_string(newest)},
                           self.place_.parent);
        });
      });
}

void WeightReader::Core::take(WeightNews news) {
  const bool map = place_.same_place && can_map_;
  WeightIntake::From from{place_.parent, map, place_.part_bytes, place_.piece_bytes, options_.part_timeout};
  WeightVersionPtr base = whole_ && whole_->generation == news.generation ? whole_ : nullptr;
  intake_ = WeightIntake::begin(
      node_, std::move(from), layout_, std::move(news), std::move(base),
      [weak = weak_from_this()](Result<WeightVersionPtr> version, const WeightIntake::Counts& counts) {
        // Not from within take(), and not with the intake's own last breath.
        guarded(weak, [&](Core& self) {
          self.node_.loop().defer([weak, version = std::move(version), counts]() mutable {
            guarded(weak, [&](Core& reader) { reader.taken(std::move(version), counts); });
          });
        });
      });
}

void WeightReader::Core::taken(Result<WeightVersionPtr> version, const WeightIntake::Counts& counts) {
  intake_.reset();
  can_map_ = can_map_ && !counts.could_not_map;
  if (!version) {
    const std::lock_guard lock(mutex_);
    stats_.bytes_received += counts.received;
    stats_.bytes_kept += counts.kept;
  }
  if (!version) {
    const bool gone = version.error().code == Code::kFailedPrecondition;
    return begin_again(version.error(), gone ? "" : place_.parent);
  }
  avoid_.clear();
  doubted_.reset();
  pause_ = kFirstPause;
  whole_ = *version;
  auto weights = std::make_shared<const Weights>(*version);
  {
    const std::lock_guard lock(mutex_);
    newest_ = weights;
    ++stats_.taken;
    stats_.bytes_mapped += counts.mapped;
    stats_.bytes_received += counts.received;
    stats_.bytes_kept += counts.kept;
    stats_.bytes_out = source_->bytes_out();
  }
  source_->set(std::move(*version));
  const auto self = shared_from_this();  // who is told may end the reader
  if (options_.on_version) {
    try {
      options_.on_version(weights);
    } catch (...) {
      node_.loop().report_exception("who is told of new weights");
    }
  }
  if (closed_) return;
  serve_refreshes();
  if (!closed_) ask();
}

void WeightReader::Core::begin_again(const Error& why, const std::string& said_by) {
  if (intake_) intake_->cancel();
  intake_.reset();
  {
    const std::lock_guard lock(mutex_);
    stats_.trouble = why.to_string();
    stats_.parent.clear();
  }
  if (!said_by.empty() && std::find(avoid_.begin(), avoid_.end(), said_by) == avoid_.end()) {
    if (avoid_.size() == kMostAvoided) avoid_.erase(avoid_.begin());
    avoid_.push_back(said_by);
  }
  place_.parent.clear();
  busy_ = wants_more();
  if (!busy_) return;
  // Many that lost the same parent do not all come back at once.
  std::uniform_int_distribution<std::int64_t> pause(pause_.count() / 2, pause_.count());
  node_.loop().schedule_after(again_, Duration(pause(random_)));
  pause_ = std::min(pause_ * 2, kLongestPause);
}

rpc::Future<std::shared_ptr<const Weights>> WeightReader::Core::refresh(TimePoint deadline) {
  rpc::Promise<std::shared_ptr<const Weights>> promise(node_.loop(), deadline);
  auto future = promise.future();
  node_
      .rpc_async_with<Version>({.timeout = deadline - node_.loop().clock().now()}, publisher_actor(stream_),
                               "newest")
      .then(
          [weak = weak_from_this(), deadline, promise = std::move(promise)](Result<Version> newest) mutable {
            const auto self = weak.lock();
            if (!self || self->closed_) return;  // which ends the promise
            if (!newest) return promise.set(std::move(newest).error());
            if (newest->second == 0)
              return promise.set(
                  Error{Code::kNotFound, "stream '" + self->stream_ + "': nothing was published yet"});
            self->refreshes_.push_back({deadline, *newest, std::move(promise)});
            self->expire_refreshes();
            self->serve_refreshes();
            if (self->closed_ || self->busy_ || self->refreshes_.empty()) return;
            if (self->place_.parent.empty() || self->place_.generation != newest->first)
              self->join();
            else
              self->ask();
          });
  return future;
}

void WeightReader::Core::serve_refreshes() {
  if (!whole_) return;
  std::list<Refresh> ready;
  for (auto each = refreshes_.begin(); each != refreshes_.end();) {
    const auto next = std::next(each);
    if (each->wanted.first == whole_->generation && each->wanted.second <= whole_->number)
      ready.splice(ready.end(), refreshes_, each);
    each = next;
  }
  const auto newest = this->newest();
  for (Refresh& each : ready) each.promise.set(newest);
}

/// Those whose time is over, and a look when that of the next one is.
void WeightReader::Core::expire_refreshes() {
  const TimePoint now = node_.loop().clock().now();
  std::list<Refresh> late;
  TimePoint next = TimePoint::never();
  for (auto each = refreshes_.begin(); each != refreshes_.end();) {
    const auto after = std::next(each);
    if (each->deadline <= now)
      late.splice(late.end(), refreshes_, each);
    else
      next = std::min(next, each->deadline);
    each = after;
  }
  if (next != TimePoint::never()) node_.loop().schedule(expiry_, next);
  const std::string why =
      place_.parent.empty() ? stats().trouble : "'" + place_.parent + "' has not sent it yet";
  for (Refresh& each : late)
    each.promise.set(Error{Code::kDeadlineExceeded, "the newest weights did not come in time: " + why});
}

void WeightReader::Core::fail_refreshes(const Error& why) {
  for (Refresh& each : std::exchange(refreshes_, {})) each.promise.set(why);
}

}  // namespace troupe::training
