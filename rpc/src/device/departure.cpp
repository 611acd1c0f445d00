#include "device/departure.hpp"

#include <algorithm>
#include <atomic>
#include <utility>

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

}  // namespace

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
      return place;
    }
  }
  place.target = to_.gpus ? same_target(*to_.gpus, *lane) : std::uint8_t{0};
  if (auto done = stage(tensor, *lane, place, may_stay); !done) return done.error();
  ++staged;
  return place;
}

/// What `stream` is given from now on comes after what the caller's has been given.
Result<void> DeviceDeparture::follow(const troupe::Stream& stream) {
  if (!after_) return {};
  auto event = after_->record();
  return event ? stream.wait_for(*event) : Result<void>(event.error());
}

/// False: it does not lie where others could map it, nor is there room for a copy that does.
Result<bool> DeviceDeparture::leave(Tensor& tensor, DeviceLane& lane, DevicePlace& place) {
  Buffer memory = bytes_of(tensor);
  auto location = locate_gpu_memory(memory);
  if (location) {
    if (after_) {
      auto event = after_->point();
      if (!event) return event.error();
      waits_.push_back(*std::move(event));
    }
    waits_.push_back(readable_after(memory));
  } else {
    auto copied = lane.pool.allocate(memory.size(), lane.out);
    if (!copied) return false;
    if (auto done = follow(lane.out); !done) return done.error();
    if (auto done = begin_read(memory, lane.out); !done) return done.error();
    if (auto done = lane.out.copy(copied->data(), memory.data(), memory.size()); !done) return done.error();
    if (auto done = end_write(*copied, lane.out); !done) return done.error();
    location = locate_gpu_memory(*copied);
    if (!location) return false;
    waits_.push_back(readable_after(*copied));
    keep(waits_.back(), std::move(memory), {});
    memory = *std::move(copied);
  }
  place.location = *location;
  place.lease = next_lease_++;
  place.memory = std::move(memory);
  return true;
}

/// Nobody else may know that a device reads it.
void DeviceDeparture::keep(const Event& until, Buffer memory, const Buffer& host) {
  devices_.when_all({until}, [memory = std::move(memory), host](const Result<void>& outcome) {
    // A device that fails will not tell a peer that follows.
    if (!outcome && !host.empty()) SharedPool::progress(host)->store(UINT64_MAX, std::memory_order_release);
  });
}

/// A peer that maps the host's memory, and has a GPU, is told at once, and follows the copy step by step: so
/// both ways over the bus are in use.
Result<void> DeviceDeparture::stage(Tensor& tensor, DeviceLane& lane, DevicePlace& place, bool may_follow) {
  Buffer memory = bytes_of(tensor);
  Staging& staging = *devices_.staging();
  auto host = staging.take(memory.size());
  if (!host) return host.error();
  Event written = readable_after(memory);
  if (after_ && written.done()) {
    auto point = after_->point();
    if (!point) return point.error();
    written = *std::move(point);
  }
  const troupe::Stream& out = lane.out_behind(written);
  if (auto done = follow(out); !done) return done;
  if (auto done = begin_read(memory, out); !done) return done;
  // Who follows looks all the time: not for what nobody knows when it begins.
  place.follows = may_follow && to_.maps && to_.gpus && !to_.gpus->gpus.empty() && &out == &lane.out &&
                  memory.size() >= SharedPool::kSmallest && SharedPool::progress(*host);
  auto copied = copy(*host, memory, out, place.follows);
  auto event = copied ? out.point() : Result<Event>(copied.error());
  if (!event) {
    staging.lose(*host);  // a device may be at work in it
    return event.error();
  }
  staging.in_use_until(*host, *event);
  lane.note_waiting(out, *event);
  keep(*event, std::move(memory), place.follows ? *host : Buffer());
  if (!place.follows) waits_.push_back(*std::move(event));
  tensor = Tensor(tensor.dtype(), tensor.shape(), *std::move(host));
  return {};
}

Result<void> DeviceDeparture::copy(const Buffer& host, const Buffer& memory, const troupe::Stream& out,
                                   bool in_steps) {
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

}  // namespace troupe::rpc
