#include "device/departure.hpp"

#include <algorithm>
#include <atomic>
#include <utility>

#include <troupe/runtime/device_range.hpp>

namespace troupe::rpc {

namespace {

// A step takes some times as long as giving it to the device.
constexpr std::size_t kShortStep = std::size_t{1} << 20;
constexpr std::size_t kLongStep = std::size_t{4} << 20;

Buffer bytes_of(const Tensor& tensor) {
  return tensor.buffer().slice(static_cast<std::size_t>(tensor.data() - tensor.buffer().data()),
                               tensor.bytes());
}

bool same_gpu(const PeerGpu& theirs, const DeviceLane& lane) {
  return theirs.uuid == lane.uuid && lane.uuid != decltype(lane.uuid){};
}

/// The same GPU, if the peer has it: then nothing leaves the device. Else the first that reaches ours. From
/// 1; 0: none.
std::uint8_t best_reader(const PeerDevices& to, const DeviceLane& lane, std::uint8_t number) {
  std::uint8_t best = 0;
  for (const Reach& reach : to.it_reaches) {
    if (reach.owner != number || reach.reader >= to.gpus.size()) continue;
    const auto target = static_cast<std::uint8_t>(reach.reader + 1);
    if (same_gpu(to.gpus[reach.reader], lane)) return target;
    if (best == 0) best = target;
  }
  return best;
}

/// Likewise, however it comes there.
std::uint8_t same_target(const PeerDevices& to, const DeviceLane& lane) {
  for (std::size_t i = 0; i < to.gpus.size(); ++i)
    if (same_gpu(to.gpus[i], lane)) return static_cast<std::uint8_t>(i + 1);
  return 0;
}

/// Nobody else may know that a device reads it.
void keep(DeviceTensors& devices, const Event& until, Buffer memory, const Buffer& host) {
  devices.when_all({until}, [memory = std::move(memory), host](const Result<void>& outcome) {
    // A device that fails will not tell a peer that follows.
    if (!outcome && !host.empty()) SharedPool::progress(host)->store(UINT64_MAX, std::memory_order_release);
  });
}

Result<void> copy(const Buffer& host, const Buffer& memory, const troupe::Stream& out, bool in_steps) {
  if (!in_steps) return out.copy(host.data(), memory.data(), memory.size());
  std::atomic<std::uint64_t>& progress = *SharedPool::progress(host);
  progress.store(0, std::memory_order_release);
  const std::size_t step = memory.size() >= 4 * kLongStep ? kLongStep : kShortStep;
  for (std::size_t at = 0; at < memory.size();) {
    const std::size_t bytes = std::min(step, memory.size() - at);
    if (auto done = out.copy(host.data() + at, memory.data() + at, bytes); !done) return done;
    at += bytes;
    if (auto done = write_word(out, progress, at); !done) return done;
  }
  return {};
}

}  // namespace

/// A peer that maps the host's memory, and has a GPU, is told at once, and follows the copy step by step: so
/// both ways over the bus are in use.
Result<StagedCopy> begin_staging(DeviceTensors& devices, DeviceLane& lane, Buffer memory, const Buffer& host,
                                 const Event& after, bool may_follow) {
  const DeviceRange range("stage a tensor");
  const Event written = readable_after(memory);
  const bool is_written = written.done() && after.done();
  const troupe::Stream& out = lane.out_behind(written.done() ? after : written);
  if (auto done = out.wait_for(after); !done) return done.error();
  if (auto done = begin_read(memory, out); !done) return done.error();
  StagedCopy begun;
  // Who follows looks all the time: not for what nobody knows when it begins.
  begun.follows = may_follow && is_written && &out == &lane.out && memory.size() >= SharedPool::kSmallest &&
                  SharedPool::progress(host);
  const auto copied = copy(host, memory, out, begun.follows);
  const auto event = copied ? out.point() : Result<Event>(copied.error());
  Staging& staging = *devices.staging();
  if (!event) {
    staging.lose(host);  // a device may be at work in it
    return event.error();
  }
  staging.in_use_until(host, *event);
  lane.note_waiting(out, *event);
  keep(devices, *event, std::move(memory), begun.follows ? host : Buffer());
  if (!begun.follows) begun.written = *event;
  return begun;
}

Result<DevicePlace> DeviceDeparture::place(Tensor& tensor, bool may_stay) {
  DevicePlace place;
  place.is_device = true;
  DeviceLane* const lane = devices_.lane_of(tensor.device(), &place.gpu);
  if (!lane) return devices_.no_lane(tensor.device());
  if (to_.gpus && to_.may_stay && may_stay) place.target = best_reader(*to_.gpus, *lane, place.gpu);
  if (place.target != 0) {
    auto left = leave(tensor, *lane, place);
    if (!left) return left.error();
    if (*left) {
      ++stayed;
      stayed_bytes += tensor.bytes();
      return place;
    }
  }
  place.target = to_.gpus ? same_target(*to_.gpus, *lane) : std::uint8_t{0};
  staged_bytes += tensor.bytes();
  if (auto done = stage(tensor, *lane, place, may_stay); !done) return done.error();
  ++staged;
  return place;
}

/// What the caller's stream has been given so far.
Result<Event> DeviceDeparture::after() {
  if (stream_ && !std::exchange(recorded_, true)) {
    auto event = stream_->record();
    if (!event) return event;
    after_ = *std::move(event);
  }
  return after_;
}

/// False: it does not lie where others could map it, nor is there room for a copy that does.
Result<bool> DeviceDeparture::leave(Tensor& tensor, DeviceLane& lane, DevicePlace& place) {
  Buffer memory = bytes_of(tensor);
  auto location = locate_gpu_memory(memory);
  const auto before = after();
  if (!before) return before.error();
  if (location) {
    waits_.push_back(*before);
    waits_.push_back(readable_after(memory));
  } else {
    const Event written = readable_after(memory);
    const troupe::Stream& out = lane.out_behind(written.done() ? *before : written);
    auto copied = lane.pool.allocate(memory.size(), out);
    if (!copied) return false;
    if (auto done = out.wait_for(*before); !done) return done.error();
    if (auto done = begin_read(memory, out); !done) return done.error();
    if (auto done = out.copy(copied->data(), memory.data(), memory.size()); !done) return done.error();
    if (auto done = end_write(*copied, out); !done) return done.error();
    location = locate_gpu_memory(*copied);
    if (!location) return false;
    waits_.push_back(readable_after(*copied));
    lane.note_waiting(out, waits_.back());
    keep(devices_, waits_.back(), std::move(memory), {});
    memory = *std::move(copied);
  }
  place.location = *location;
  place.lease = next_lease_++;
  place.memory = std::move(memory);
  return true;
}

Result<void> DeviceDeparture::stage(Tensor& tensor, DeviceLane& lane, DevicePlace& place, bool may_share) {
  Buffer memory = bytes_of(tensor);
  const auto before = after();
  if (!before) return before.error();
  const bool may_follow = may_share && to_.maps && to_.gpus && !to_.gpus->gpus.empty();
  PinnedQueue& queue = devices_.pinned_queue();
  auto host = queue.empty() ? devices_.staging()->take(memory.size(), Staging::For::kSending)
                            : Result<Buffer>(Error{Code::kUnavailable, "others wait"});
  if (!host) {
    // Those that come first are served first; what can never be served is told at once.
    if (host.error().code != Code::kUnavailable) return host.error();
    if (staged_bytes > devices_.staging()->most())
      return Error{Code::kResourceExhausted, "the device tensors of one message are " +
                                                 std::to_string(staged_bytes) + " bytes, more than the " +
                                                 std::to_string(devices_.staging()->most()) +
                                                 " of pinned memory through which they are to go"};
    if (queue.full())
      return Error{Code::kResourceExhausted, "too many messages wait for pinned memory already"};
    place.later = true;
    place.may_share = may_share && to_.maps;
    place.may_follow = may_follow;
    place.after = *before;
    place.memory = std::move(memory);
    return {};
  }
  auto begun = begin_staging(devices_, lane, std::move(memory), *host, *before, may_follow);
  if (!begun) return begun.error();
  place.follows = begun->follows;
  if (!place.follows) waits_.push_back(std::move(begun->written));
  tensor = Tensor(tensor.dtype(), tensor.shape(), *std::move(host));
  return {};
}

}  // namespace troupe::rpc
