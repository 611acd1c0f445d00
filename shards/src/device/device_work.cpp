#include "device/device_work.hpp"

#include <cstring>
#include <utility>

namespace troupe::shards {
namespace {

/// Pieces of pinned memory: the host writes one while the device reads the other.
constexpr std::size_t kStaging = 2;

}  // namespace

DeviceHome DeviceHome::of(const Gpu& gpu, std::shared_ptr<EventWatch> watch) {
  return {.gpu = gpu,
          .memory = std::make_shared<GpuPool>(gpu),
          .pinned = std::make_shared<GpuPool>(gpu, GpuPoolOptions{.kind = MemoryKind::kPinned}),
          .watch = std::move(watch)};
}

// ---- What is read -------------------------------------------------------------------------------

void DeviceReading::copy_later(Buffer from, void* to) {
  copies_.push_back({std::move(from), to});
}

void DeviceReading::copy_now() {
  for (const Copy& copy : std::exchange(copies_, {}))
    std::memcpy(copy.to, copy.from.data(), copy.from.size());
}

bool DeviceReading::goes_no_further() {
  copy_now();
  if (!then_) return true;
  auto next = std::exchange(then_, {})();
  if (next)
    event_ = *std::move(next);
  else
    outcome_ = next.error();
  return event_.done();
}

bool DeviceReading::done() {
  return event_.done() && goes_no_further();
}

Result<void> DeviceReading::wait(Duration timeout) {
  if (auto passed = event_.wait(timeout); !passed) return passed;
  if (!goes_no_further()) {
    if (auto passed = event_.wait(timeout); !passed) return passed;
  }
  return outcome_;
}

void DeviceReading::when_done(UniqueFunction<void(Result<void>)> told) {
  if (done()) return told(outcome_);
  if (!watch_) return told(wait(kPatience));
  watch_->when_done(event_,
                    [self = shared_from_this(), told = std::move(told)](Result<void> outcome) mutable {
                      if (!outcome) return told(std::move(outcome));
                      self->when_done(std::move(told));
                    });
}

// ---- What is given ------------------------------------------------------------------------------

Result<DeviceWork> DeviceWork::create(const DeviceHome& home, std::size_t staging_bytes) {
  auto stream = home.gpu.make_stream();
  if (!stream) return stream.error();
  DeviceWork work(home, *std::move(stream));
  for (std::size_t i = 0; i < kStaging; ++i) {
    auto memory = work.pinned_memory(staging_bytes);
    if (!memory) return memory.error();
    work.staging_.push_back({*std::move(memory), {}});
  }
  // What the pool gave may be what another stream still writes, for which this one waits: the host is to.
  if (auto passed = work.finish(); !passed) return passed.error();
  return work;
}

Result<std::byte*> DeviceWork::stage() {
  if (broken_) return *broken_;
  if (open_) {  // by something that has failed
    if (auto sealed = seal(); !sealed) return sealed.error();
  }
  next_ = (next_ + 1) % staging_.size();
  if (auto passed = staging_[next_].free_after.wait(kPatience); !passed) return passed.error();
  open_ = true;
  return staging_[next_].memory.data();
}

Result<Event> DeviceWork::seal() {
  if (const char* const kernel = std::exchange(given_, nullptr)) {
    if (auto told = stream_.launched(kernel, 0); !told) return told.error();
  }
  auto event = stream_.point();
  if (!event) return event.error();
  if (open_) staging_[next_].free_after = *event;
  open_ = false;
  return event;
}

Result<void> DeviceWork::begin_after(const Stream* other) const {
  if (!other) return {};
  auto before = other->record();
  return before ? stream_.wait_for(*before) : Result<void>(before.error());
}

Result<void> DeviceWork::end_before(const Stream* other) {
  if (!other) return {};
  auto all = stream_.record();
  return all ? other->wait_for(*all) : Result<void>(all.error());
}

Result<void> DeviceWork::finish() {
  auto event = seal();
  return event ? event->wait(kPatience) : Result<void>(event.error());
}

}  // namespace troupe::shards
