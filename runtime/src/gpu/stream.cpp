#include <troupe/runtime/stream.hpp>

#include <algorithm>
#include <exception>
#include <thread>

#include <troupe/runtime/gpu.hpp>

#include "state.hpp"

namespace troupe {
namespace {

// Asking the driver costs as much as some thousand looks at the word.
constexpr int kLooksBetweenChecks = 4096;
constexpr int kLooksBeforeYield = 64;
constexpr Duration kCheckEvery = std::chrono::milliseconds(1);
// After which a loop may sleep between two looks, a millisecond at most.
constexpr Duration kAwake = std::chrono::milliseconds(10);

}  // namespace

bool Event::done() const {
  return !stream_ || stream_->passed(number_);
}

Result<void> Event::check() const {
  return stream_ ? stream_->check() : Result<void>();
}

Result<void> Event::wait(Duration timeout) const {
  const RealClock clock;
  const TimePoint deadline = clock.now() + timeout;
  for (int looks = 1; !done(); ++looks) {
    if (looks % kLooksBetweenChecks == 0) {
      if (auto checked = check(); !checked) return checked;
    }
    if (looks % kLooksBeforeYield == 0) {
      if (clock.now() >= deadline) {
        if (auto checked = check(); !checked) return checked;
        return Error{Code::kDeadlineExceeded, "the GPU has not come so far"};
      }
      std::this_thread::yield();
    }
  }
  return {};
}

Device Stream::device() const {
  return state_->gpu().driver().device();
}

void* Stream::native() const {
  return state_->native();
}

Result<Event> Stream::record() const {
  state_->gpu().collect();
  auto handle = state_->gpu().event();
  if (!handle) return handle.error();
  if (auto recorded = state_->gpu().driver().record((*handle)->native(), native()); !recorded) {
    if (auto checked = state_->check(); !checked) return checked.error();
    return recorded.error();
  }
  auto mark = state_->mark();
  if (!mark) return mark.error();
  Event event;
  event.stream_ = std::move(mark->stream);
  event.number_ = mark->number;
  event.handle_ = *std::move(handle);
  return event;
}

Result<Event> Stream::point() const {
  auto mark = state_->mark();
  if (!mark) return mark.error();
  Event event;
  event.stream_ = std::move(mark->stream);
  event.number_ = mark->number;
  return event;
}

Result<void> Stream::wait_for(const Event& event) const {
  if (event.done() || event.stream_ == state_) return {};
  if (!event.handle_)
    return Error{Code::kInvalidArgument, "a point in a stream is for the host alone: record() an event"};
  if (auto waits = state_->gpu().driver().wait(native(), event.handle_->native()); !waits) {
    if (auto checked = state_->check(); !checked) return checked;
    return waits;
  }
  return {};
}

Result<void> Stream::copy(void* to, const void* from, std::size_t bytes) const {
  if (bytes == 0) return {};
  auto copied = state_->gpu().driver().copy(native(), to, from, bytes);
  if (!copied) {
    if (auto checked = state_->check(); !checked) return checked;
  }
  return copied;
}

Result<void> Stream::fill(void* to, std::uint8_t byte, std::size_t bytes) const {
  if (bytes == 0) return {};
  auto filled = state_->gpu().driver().fill(native(), to, byte, bytes);
  if (!filled) {
    if (auto checked = state_->check(); !checked) return checked;
  }
  return filled;
}

Result<void> Stream::launched(const char* kernel, int native_error) const {
  return state_->launched(kernel, native_error);
}

Result<void> Stream::finish(Duration timeout) const {
  auto event = record();
  return event ? event->wait(timeout) : Result<void>(event.error());
}

EventWatch::~EventWatch() {
  if (polling_) loop_.remove_source(*this);
}

void EventWatch::when_done(Event event, UniqueFunction<void(Result<void>)> told) {
  if (!polling_) loop_.add_source(*this);
  polling_ = true;
  asked_at_ = loop_.now();
  waiting_.push_back({std::move(event), std::move(told)});
}

bool EventWatch::arm() {
  return loop_.now() - asked_at_ >= kAwake;
}

int EventWatch::poll() {
  const bool check = loop_.now() - checked_at_ >= kCheckEvery;
  if (check) checked_at_ = loop_.now();
  std::vector<std::pair<Waiting, Result<void>>> ready;
  ready.reserve(waiting_.size());  // nothing may be thrown while entries are moved
  std::erase_if(waiting_, [&](Waiting& each) {
    Result<void> outcome;
    if (!each.event.done()) {
      if (check) outcome = each.event.check();
      if (outcome) return false;
    }
    ready.emplace_back(std::move(each), std::move(outcome));
    return true;
  });
  if (waiting_.empty() && polling_) {
    loop_.remove_source(*this);  // so that the loop can sleep
    polling_ = false;
  }
  // From here on nothing of this object is touched: it may be told to go.
  const int count = static_cast<int>(ready.size());
  std::exception_ptr thrown;  // each is told, whatever the others throw
  for (auto& [each, outcome] : ready) {
    try {
      each.told(std::move(outcome));
    } catch (...) {
      thrown = std::current_exception();
    }
  }
  if (thrown) std::rethrow_exception(thrown);
  return count;
}

Gpu::Gpu(std::unique_ptr<gpu::Driver> driver) : state_(std::make_shared<gpu::State>(std::move(driver))) {}

Device Gpu::device() const {
  return state_->driver().device();
}

Result<Stream> Gpu::make_stream() const {
  auto made = state_->make_stream(nullptr);
  if (!made) return made.error();
  return Stream(*std::move(made));
}

Result<Stream> Gpu::adopt_stream(void* native) const {
  if (!native) {
    return Error{Code::kInvalidArgument,
                 "a null stream is the default one of whoever made it: give a stream of its own"};
  }
  auto made = state_->make_stream(native);
  if (!made) return made.error();
  return Stream(*std::move(made));
}

Result<void> Gpu::check() const {
  return state_->check_any();
}

CurrentGpu::CurrentGpu(Gpu gpu) : gpu_(std::move(gpu)), before_(gpu_.state()->driver().enter()) {}

CurrentGpu::~CurrentGpu() {
  gpu_.state()->driver().leave(before_);
}

std::size_t Gpu::release_idle() const {
  state_->collect();
  return state_->free_slabs();
}

}  // namespace troupe
