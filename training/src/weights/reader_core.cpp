#include "reader_core.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include "names.hpp"

namespace troupe::training {

WeightReader::Core::Core(Node& node, std::string stream, WeightReaderOptions options)
    : node_(node),
      stream_(std::move(stream)),
      options_(std::move(options)),
      own_place_(options_.place.empty() ? own_place(node) : options_.place) {}

WeightReader::Core::~Core() = default;

Result<void> WeightReader::Core::start() {
  source_ = std::make_shared<WeightSource>(node_);
  rpc::Methods<WeightSource> methods;
  WeightSource::methods(methods);
  auto made = node_.spawn_state(source_actor(stream_, node_.name()), source_, methods.table());
  if (!made) {
    source_->end();
    return made;
  }
  again_.set([this] { join(); });
  if (options_.follow) join();
  return {};
}

void WeightReader::Core::close() {
  closed_ = true;
  node_.loop().cancel(again_);
  if (intake_) intake_->cancel();
  intake_.reset();
  fail_refreshes({Code::kCancelled, "the reader of stream '" + stream_ + "' has ended"});
  if (!place_.parent.empty()) static_cast<void>(node_.send(publisher_actor(stream_), "leave"));
  static_cast<void>(node_.kill(source_actor(stream_, node_.name())));
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
  {
    const std::lock_guard lock(mutex_);
    stats_.parent.clear();
    place_.parent.clear();
  }
  node_
      .rpc_async_with<WeightPlace>({.timeout = options_.silence_limit}, publisher_actor(stream_), "join",
                                   own_place_, options_.follow, avoid_)
      .then([weak = weak_from_this()](Result<WeightPlace> place) {
        if (const auto self = weak.lock(); self && !self->closed_) self->joined(std::move(place));
      });
}

void WeightReader::Core::joined(Result<WeightPlace> place) {
  if (!place) return begin_again(place.error());
  if (place->generation == 0 || place->parent.empty() || place->part_bytes == 0 ||
      place->part_bytes > WeightSource::kLongestPart || place->piece_bytes == 0 ||
      place->names.size() != place->dtypes.size() || place->names.size() != place->shapes.size())
    return begin_again({Code::kDataLoss, "the publisher of stream '" + stream_ + "' describes it badly"});
  if (!layout_ || place->generation != place_.generation) {
    std::vector<WeightSpec> specs;
    try {
      for (std::size_t i = 0; i < place->names.size(); ++i) {
        if (place->dtypes[i] > static_cast<std::uint8_t>(DType::kBool)) throw BadTensor("no such dtype");
        specs.push_back(
            {std::move(place->names[i]), static_cast<DType>(place->dtypes[i]), Shape(place->shapes[i])});
      }
    } catch (const BadTensor& bad) {
      return begin_again(
          {Code::kDataLoss, "the publisher of stream '" + stream_ + "' describes it badly: " + bad.what()});
    }
    auto layout = WeightLayout::of(std::move(specs));
    if (!layout) return begin_again(layout.error());
    layout_ = std::move(*layout);
  }
  place_ = std::move(*place);
  avoid_.clear();
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
  const std::uint64_t have = whole_ && whole_->generation == place_.generation ? whole_->number : 0;
  node_
      .rpc_async_with<WeightNews>({.timeout = options_.silence_limit}, place_.parent, "next",
                                  place_.generation, have, true, options_.only_changes)
      .then([weak = weak_from_this()](Result<WeightNews> news) {
        if (const auto self = weak.lock(); self && !self->closed_) self->told(std::move(news));
      });
}

void WeightReader::Core::told(Result<WeightNews> news) {
  if (!news) {
    if (news.error().code == Code::kDeadlineExceeded) return ask_whether_all_is_well();
    avoid_ = place_.parent;
    return begin_again(news.error());
  }
  const std::uint64_t have = whole_ && whole_->generation == place_.generation ? whole_->number : 0;
  if (news->generation != place_.generation || news->number <= have)
    return begin_again({Code::kDataLoss, "'" + place_.parent + "' told of a version that is not newer"});
  take(std::move(*news));
}

/// Nothing new for a while: is that so, or is the parent cut off?
void WeightReader::Core::ask_whether_all_is_well() {
  node_.rpc_async_with<Version>({.timeout = options_.silence_limit}, publisher_actor(stream_), "newest")
      .then([weak = weak_from_this()](Result<Version> newest) {
        const auto self = weak.lock();
        if (!self || self->closed_) return;
        if (!newest) return self->begin_again(newest.error());
        if (newest->second == 0 || *newest == self->have()) {
          self->serve_refreshes();
          return self->ask();
        }
        self->avoid_ = self->place_.parent;
        self->begin_again({Code::kUnavailable, "'" + self->place_.parent + "' has not told of version " +
                                                   std::to_string(newest->second)});
      });
}

void WeightReader::Core::take(WeightNews news) {
  const bool map = place_.same_place && can_map_;
  WeightIntake::From from{place_.parent, map, place_.part_bytes, place_.piece_bytes, options_.part_timeout};
  WeightVersionPtr base = whole_ && whole_->generation == news.generation ? whole_ : nullptr;
  auto begun = WeightIntake::begin(
      node_, std::move(from), layout_, std::move(news), std::move(base),
      [weak = weak_from_this()](Result<WeightVersionPtr> version, const WeightIntake::Counts& counts) {
        // Not from within take(), and not with the intake's own last breath.
        const auto self = weak.lock();
        if (!self || self->closed_) return;
        self->node_.loop().defer([weak, version = std::move(version), counts]() mutable {
          if (const auto reader = weak.lock(); reader && !reader->closed_)
            reader->taken(std::move(version), counts);
        });
      });
  intake_ = std::move(begun);
}

void WeightReader::Core::taken(Result<WeightVersionPtr> version, const WeightIntake::Counts& counts) {
  intake_.reset();
  if (counts.could_not_map) can_map_ = false;
  if (!version) {
    const std::lock_guard lock(mutex_);
    stats_.bytes_received += counts.received;
    stats_.bytes_kept += counts.kept;
  }
  if (!version) {
    if (version.error().code != Code::kFailedPrecondition) avoid_ = place_.parent;
    return begin_again(version.error());
  }
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

void WeightReader::Core::begin_again(const Error& why) {
  {
    const std::lock_guard lock(mutex_);
    stats_.trouble = why.to_string();
    stats_.parent.clear();
  }
  place_.parent.clear();
  if (!options_.follow) {
    // Whoever asked hears of it; what is left of those that wait longer is tried again.
    const TimePoint now = node_.loop().clock().now();
    const bool hopeless = why.code == Code::kNotFound || why.code == Code::kCancelled;
    if (hopeless || std::none_of(refreshes_.begin(), refreshes_.end(),
                                 [&](const Refresh& each) { return now < each.deadline; })) {
      busy_ = false;
      return fail_refreshes(why);
    }
  }
  busy_ = true;
  node_.loop().schedule_after(again_, pause_);
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
            const TimePoint now = self->node_.loop().clock().now();
            std::erase_if(self->refreshes_, [&](const Refresh& each) { return each.deadline <= now; });
            self->refreshes_.push_back({deadline, *newest, std::move(promise)});
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

void WeightReader::Core::fail_refreshes(const Error& why) {
  for (Refresh& each : std::exchange(refreshes_, {})) each.promise.set(why);
}

}  // namespace troupe::training
