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

/// The same GPU, if the peer has it: then nothing leaves the device. Else the first that reaches ours; 0:
/// none.
std::uint8_t best_reader(const PeerDevices& to, const DeviceLane& lane, std::uint8_t number) {
  std::uint8_t best = 0;
  for (const Reach& reach : to.it_reaches) {
    if (reach.owner != number || reach.reader >= to.gpus.size()) continue;
    const auto target = static_cast<std::uint8_t>(reach.reader + 1);
    if (to.gpus[reach.reader].uuid == lane.uuid) return target;
    if (best == 0) best = target;
  }
  return best;
}

}  // namespace

Result<DevicePlace> DeviceDeparture::place(Tensor& tensor, bool may_stay) {
  DevicePlace place;
  place.is_device = true;
  DeviceLane* const lane = devices_.lane_of(tensor.device(), &place.gpu);
  if (!lane) return devices_.no_lane(tensor.device());
  if (to_ && may_stay) place.target = best_reader(*to_, *lane, place.gpu);
  if (place.target != 0) {
    auto left = leave(tensor, *lane, place);
    if (!left) return left.error();
    if (*left) {
      ++stayed;
      return place;
    }
  }
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
    auto copy = lane.pool.allocate(memory.size(), lane.out);
    if (!copy) return false;
    if (auto done = follow(lane.out); !done) return done.error();
    if (auto done = begin_read(memory, lane.out); !done) return done.error();
    if (auto done = lane.out.copy(copy->data(), memory.data(), memory.size()); !done) return done.error();
    if (auto done = end_write(*copy, lane.out); !done) return done.error();
    location = locate_gpu_memory(*copy);
    if (!location) return false;
    waits_.push_back(readable_after(*copy));
    memory = *std::move(copy);
  }
  place.location = *location;
  place.lease = next_lease_++;
  place.memory = std::move(memory);
  return true;
}

/// A peer that maps the host's memory, and has a GPU, is told at once, and follows the copy step by step: so
/// both ways over the bus are in use.
Result<void> DeviceDeparture::stage(Tensor& tensor, DeviceLane& lane, DevicePlace& place, bool may_follow) {
  const Buffer memory = bytes_of(tensor);
  auto host = devices_.staging()->take(memory.size());
  if (!host) return host.error();
  if (auto done = follow(lane.out); !done) return done;
  if (auto done = begin_read(memory, lane.out); !done) return done;
  place.follows = may_follow && maps_ && to_ && !to_->gpus.empty() &&
                  memory.size() >= SharedPool::kSmallest && SharedPool::progress(*host);
  if (auto done = place.follows ? follow_in_steps(*host, memory, lane)
                                : lane.out.copy(host->data(), memory.data(), memory.size());
      !done)
    return done;
  auto event = lane.out.point();
  if (!event) return event.error();
  devices_.staging()->in_use_until(*host, *event);
  if (place.follows)
    // A device that fails will not say so itself.
    devices_.when_all({*event}, [host = *host](Result<void> outcome) {
      if (!outcome) SharedPool::progress(host)->store(UINT64_MAX, std::memory_order_release);
    });
  else
    waits_.push_back(*std::move(event));
  tensor = Tensor(tensor.dtype(), tensor.shape(), *std::move(host));
  return {};
}

Result<void> DeviceDeparture::follow_in_steps(const Buffer& host, const Buffer& memory, DeviceLane& lane) {
  std::atomic<std::uint64_t>& progress = *SharedPool::progress(host);
  progress.store(0, std::memory_order_release);
  const std::size_t step = memory.size() >= 4 * kLongStep ? kLongStep : kShortStep;
  for (std::size_t at = 0; at < memory.size();) {
    const std::size_t bytes = std::min(step, memory.size() - at);
    if (auto done = lane.out.copy(host.data() + at, memory.data() + at, bytes); !done) return done;
    at += bytes;
    if (auto done = write_word(lane.out, progress, at); !done) return done;
  }
  return {};
}

}  // namespace troupe::rpc
