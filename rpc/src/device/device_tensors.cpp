#include "device/device_tensors.hpp"

#include <algorithm>
#include <exception>
#include <mutex>
#include <new>
#include <utility>

#include <troupe/runtime/device_range.hpp>

namespace troupe::rpc {

namespace {
/// How long the end of an endpoint waits for copies; they take milliseconds, if the device works at all.
constexpr Duration kPatience = std::chrono::seconds(5);
constexpr std::size_t kProbeBytes = 512;
Result<bool> guarded(const DeviceTensors::Advance& advance) noexcept {
  try {
    return advance();
  } catch (...) {
    return Error{Code::kResourceExhausted, {}};  // of no text: there is no memory
  }
}
/// How many copies wait for who writes at most, each in a stream of its own.
constexpr std::size_t kMostWaiting = 16;
/// How long the loop does not sleep while a peer's device writes: a GB comes in twenty milliseconds.
constexpr Duration kAwake = std::chrono::milliseconds(50);
/// Then it looks now and then: what comes says nothing.
constexpr Duration kLookAgain = std::chrono::milliseconds(1);
}  // namespace

struct DeviceTensors::Way {
  std::mutex mutex;
  Loop* loop = nullptr;  // null: the endpoint has gone
  void post(Task task) {
    const std::lock_guard lock(mutex);
    if (loop) loop->post(std::move(task));
  }
  /// Asked on the loop, where the endpoint ends, too: whether there is somebody to be told.
  bool open() {
    const std::lock_guard lock(mutex);
    return loop != nullptr;
  }
};

DeviceTensors::DeviceTensors(Loop& loop, const std::vector<Gpu>& gpus, std::size_t most_pinned, Gone gone)
    : loop_(loop),
      watch_(loop),
      giving_(loop),
      pinned_queue_(loop),
      retired_(loop),
      way_(std::make_shared<Way>()),
      threads_({.threads = 1, .waiting = std::size_t{1} << 16}) {
  way_->loop = &loop_;
  freed_ = std::make_shared<const SlabsFreed>([way = way_, gone = std::move(gone)](const auto& slabs) {
    way->post([way, gone, slabs] {
      if (way->open()) gone(slabs);
    });
  });
  for (const Gpu& gpu : gpus) {
    if (lanes_.size() == kMostGpus) break;
    auto out = gpu.make_stream();
    auto in = gpu.make_stream();
    if (!out || !in) {
      failures_.push_back(out ? in.error() : out.error());
      continue;
    }
    lanes_.push_back(std::make_unique<DeviceLane>(gpu, *std::move(out), *std::move(in)));
    if (!staging_) staging_ = std::make_unique<Staging>(gpu, most_pinned);
    watch_freed_slabs(gpu, freed_);
  }
}

DeviceTensors::~DeviceTensors() {
  {
    const std::lock_guard lock(way_->mutex);
    way_->loop = nullptr;
  }
  bool done = true;
  for (const auto& lane : lanes_) {
    done = done && lane->out.finish(kPatience).ok() && lane->in.finish(kPatience).ok();
    for (const auto& [stream, until] : lane->waiting) done = done && stream.finish(kPatience).ok();
  }
  for (Arriving& each : arriving) loop_.cancel(each.late);
  auto left = threads_.close(kPatience);
  // Memory that a device may still read or write is nobody's any more, and no mapping of it is closed: that
  // would wait for the device.
  if (done) return;
  (void)new (std::nothrow) ThreadPool::Left(std::move(left));
  (void)new (std::nothrow) std::list<Arriving>(std::move(arriving));
  for (auto& lane : lanes_) (void)lane.release();
  (void)staging_.release();
  (void)new (std::nothrow) std::vector<std::shared_ptr<void>>(std::move(lost_));
}

DeviceLane* DeviceTensors::lane_of(Device device, std::uint8_t* number) {
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    if (lanes_[i]->gpu.device() != device) continue;
    if (number) *number = static_cast<std::uint8_t>(i);
    return lanes_[i].get();
  }
  return nullptr;
}

Error DeviceTensors::no_lane(Device device) const {
  if (!failures_.empty()) return failures_.front();
  return {Code::kFailedPrecondition,
          "GPU " + std::to_string(device.ordinal) + " is not among those of this node (NodeOptions::gpus)"};
}

namespace {
/// Null: all are at work, and there are enough.
const troupe::Stream* idle_of(DeviceLane& lane) {
  auto idle = std::ranges::find_if(lane.waiting, [](const auto& each) { return each.second.done(); });
  if (idle == lane.waiting.end() && lane.waiting.size() < kMostWaiting) {
    if (auto made = lane.gpu.make_stream())
      idle = lane.waiting.emplace(lane.waiting.end(), *std::move(made), Event());
  }
  return idle == lane.waiting.end() ? nullptr : &idle->first;
}
}  // namespace

const troupe::Stream& DeviceLane::out_behind(const Event& written) {
  if (written.done()) return out;
  const troupe::Stream* const idle = idle_of(*this);
  return idle ? *idle : out;
}

const troupe::Stream& DeviceLane::aside() {
  const troupe::Stream* const idle = idle_of(*this);
  return idle ? *idle : in;
}

void DeviceLane::note_waiting(const troupe::Stream& stream, const Event& until) {
  for (auto& each : waiting)
    if (&each.first == &stream) each.second = until;
}

// ---- Other processes' memory ---------------------------------------------------------------------

std::vector<PeerGpu> DeviceTensors::own_gpus(bool shares) {
  std::vector<PeerGpu> own;
  for (const auto& lane : lanes_) {
    PeerGpu& gpu = own.emplace_back();
    gpu.uuid = lane->uuid;
    if (!shares) continue;
    if (lane->probe.empty())
      if (auto probe = lane->probes.allocate(kProbeBytes, lane->out)) lane->probe = *std::move(probe);
    if (auto location = locate_gpu_memory(lane->probe)) gpu.probe = location->slab;
  }
  return own;
}

void DeviceTensors::run(Task task) {
  if (!threads_.run(task)) task();  // late is better than never
}

void DeviceTensors::meet(const std::vector<PeerGpu>& theirs, Met met) {
  std::vector<Gpu> own;
  for (const auto& lane : lanes_) own.push_back(lane->gpu);
  run([way = way_, own, theirs, met = std::move(met)]() mutable {
    std::vector<Reach> reached;
    std::string words;
    for (std::size_t owner = 0; owner < theirs.size(); ++owner) {
      for (std::size_t reader = 0; reader < own.size(); ++reader) {
        words += (words.empty() ? "from its GPU " : "; from its GPU ") + std::to_string(owner) + " to GPU " +
                 std::to_string(own[reader].device().ordinal) + " ";
        // Opened here, the driver keeps the two devices connected, and later slabs are opened in a tenth of
        // the time.
        auto mapping = theirs[owner].probe.id == 0 ? Result<std::shared_ptr<const GpuMapping>>(Error{
                                                         Code::kUnavailable, "it shares none of its memory"})
                                                   : GpuMapping::open(own[reader], theirs[owner].probe);
        if (mapping) reached.push_back({static_cast<std::uint8_t>(owner), static_cast<std::uint8_t>(reader)});
        words += mapping ? "by CUDA IPC" : "staged through pinned memory (" + mapping.error().message + ")";
      }
    }
    way->post([way, reached = std::move(reached), words = std::move(words), met = std::move(met)]() mutable {
      if (way->open()) met(std::move(reached), std::move(words));
    });
  });
}

void DeviceTensors::map(const GpuSlab& slab, std::uint8_t reader, Mapped mapped) {
  run([way = way_, gpu = lanes_[reader]->gpu, slab, mapped = std::move(mapped)]() mutable {
    const DeviceRange range("map a slab");
    auto mapping = GpuMapping::open(gpu, slab);
    way->post([way, mapping = std::move(mapping), mapped = std::move(mapped)]() mutable {
      if (way->open()) mapped(std::move(mapping));
    });
  });
}

void DeviceTensors::let_go(std::shared_ptr<const GpuMapping> mapping) {
  run([mapping = std::move(mapping)]() mutable { mapping.reset(); });
}

// ---- Events --------------------------------------------------------------------------------------

/// Several events that are waited for together.
struct DeviceTensors::All {
  std::size_t left = 0;
  Result<void> outcome = {};
  UniqueFunction<void(Result<void>)> told;
};

void DeviceTensors::when_all(std::vector<Event> events, UniqueFunction<void(Result<void>)> told) {
  std::erase_if(events, [](const Event& event) { return event.done(); });
  if (events.empty()) return told({});
  if (events.size() == 1) return watch_.when_done(std::move(events[0]), std::move(told));
  auto all = std::make_shared<All>(All{events.size(), {}, std::move(told)});
  for (Event& event : events) {
    watch_.when_done(std::move(event), [all](Result<void> outcome) {
      if (!outcome && all->outcome) all->outcome = std::move(outcome);
      if (--all->left == 0) all->told(std::move(all->outcome));
    });
  }
}

void DeviceTensors::when_given(Advance advance, UniqueFunction<void(Result<void>)> told) {
  const Result<bool> all = guarded(advance);
  if (!all) return told(all.error());
  if (*all) return told({});
  giving_.add(std::move(advance), std::move(told));
}

DeviceTensors::Giving::~Giving() {
  if (polling_) loop_.remove_source(*this);
}

void DeviceTensors::Giving::add(Advance advance, UniqueFunction<void(Result<void>)> told) {
  if (!std::exchange(polling_, true)) loop_.add_source(*this);
  added_at_ = loop_.now();
  look_again_.set([] {});
  entries_.push_back({std::move(advance), std::move(told)});
}

/// What comes comes in steps of some ten microseconds: see EventWatch.
bool DeviceTensors::Giving::arm() {
  return loop_.now() - added_at_ >= kAwake;
}

int DeviceTensors::Giving::poll() {
  if (loop_.now() - added_at_ >= kAwake && !look_again_.scheduled())
    loop_.schedule(look_again_, loop_.now() + kLookAgain);
  if (looking_) return 0;  // what is given may run anybody's code, which may have the loop come here
  looking_ = true;
  std::vector<std::pair<UniqueFunction<void(Result<void>)>, Result<void>>> ended;
  // Others may be added meanwhile: entries stay where they are in a list.
  for (auto each = entries_.begin(); each != entries_.end();) {
    Result<bool> all = guarded(each->advance);
    if (all && !*all) {
      ++each;
      continue;
    }
    try {
      ended.emplace_back(nullptr, Result<void>());
    } catch (const std::bad_alloc&) {  // in the next round
      break;
    }
    ended.back() = {std::move(each->told), all ? Result<void>() : Result<void>(std::move(all).error())};
    each = entries_.erase(each);
  }
  looking_ = false;
  if (entries_.empty() && std::exchange(polling_, false)) loop_.remove_source(*this);
  // From here on nothing of this object is touched: it may be told to go, or polled again.
  const int count = static_cast<int>(ended.size());
  std::exception_ptr thrown;  // each is told, whatever the others throw
  for (auto& [told, outcome] : ended) {
    try {
      told(std::move(outcome));
    } catch (...) {
      thrown = std::current_exception();
    }
  }
  if (thrown) std::rethrow_exception(thrown);
  return count;
}

void DeviceTensors::Retired::add(std::vector<Buffer> memory, TimePoint until) {
  kept_.emplace_back(until, std::move(memory));
  if (!scheduled()) loop_.schedule(*this, until);
}

void DeviceTensors::Retired::on_timer() {
  while (!kept_.empty() && kept_.front().first <= loop_.now()) kept_.pop_front();
  if (!kept_.empty()) loop_.schedule(*this, kept_.front().first);
}

}  // namespace troupe::rpc
