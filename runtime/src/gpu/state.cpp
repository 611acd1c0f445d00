#include "state.hpp"

#include <algorithm>
#include <new>

namespace troupe::gpu {
namespace {

// Words lie a cache line apart: the device writes one while the host polls another.
constexpr std::size_t kWordBytes = 64;
constexpr std::size_t kWordsAtOnce = 64;
// Of one stream, whose names are remembered: more than a device queues.
constexpr std::size_t kKernelsRemembered = 4096;

}  // namespace

EventHandle::~EventHandle() {
  gpu_->keep_event(native_);
}

State::~State() {
  for (void* event : events_) driver_->drop_event(event);
  // Nobody is left who could use it.
  for (Lent& lent : lent_) lent.release();
}

Result<std::shared_ptr<StreamState>> State::make_stream(void* adopted) {
  auto place = word();
  if (!place) return place.error();
  void* native = adopted;
  if (!adopted) {
    auto made = driver_->make_stream();
    if (!made) {
      keep_word(place->first, place->second);
      return made.error();
    }
    native = *made;
  }
  auto stream = std::make_shared<StreamState>(shared_from_this(), native, adopted != nullptr, place->first,
                                              place->second);
  const std::lock_guard lock(mutex_);
  std::erase_if(streams_, [](const auto& each) { return each.expired(); });
  streams_.push_back(stream);
  return stream;
}

Result<std::shared_ptr<EventHandle>> State::event() {
  {
    const std::lock_guard lock(mutex_);
    if (!events_.empty()) {
      void* const native = events_.back();
      events_.pop_back();
      return std::make_shared<EventHandle>(shared_from_this(), native);
    }
  }
  auto made = driver_->make_event();
  if (!made) return made.error();
  return std::make_shared<EventHandle>(shared_from_this(), *made);
}

void State::keep_event(void* native) {
  const std::lock_guard lock(mutex_);
  events_.push_back(native);
}

Result<std::pair<Word*, std::uint64_t>> State::word() {
  const std::lock_guard lock(mutex_);
  const auto take = [&]() -> std::optional<std::pair<Word*, std::uint64_t>> {
    for (auto& each : words_) {
      if (each.first->load(std::memory_order_acquire) < each.second) continue;
      const auto found = each;
      each = words_.back();
      words_.pop_back();
      return found;
    }
    return std::nullopt;
  };
  if (const auto found = take()) return *found;
  // Never freed: a device may still write there when its last stream has gone.
  auto memory = driver_->allocate(MemoryKind::kPinned, kWordsAtOnce * kWordBytes);
  if (!memory) return memory.error();
  for (std::size_t i = 0; i < kWordsAtOnce; ++i)
    words_.emplace_back(new (*memory + i * kWordBytes) Word(0), 0);
  return *take();
}

void State::keep_word(Word* word, std::uint64_t last) {
  const std::lock_guard lock(mutex_);
  words_.emplace_back(word, last);
}

void State::release_after(std::vector<Point> busy, std::function<void()> release) {
  if (all_passed(busy)) {
    release();
    return;
  }
  const std::lock_guard lock(mutex_);
  lent_.push_back({std::move(busy), std::move(release)});
}

void State::collect() {
  std::vector<Lent> ready;
  {
    const std::lock_guard lock(mutex_);
    const auto first =
        std::partition(lent_.begin(), lent_.end(), [](const Lent& lent) { return !all_passed(lent.busy); });
    ready.assign(std::make_move_iterator(first), std::make_move_iterator(lent_.end()));
    lent_.erase(first, lent_.end());
  }
  for (Lent& lent : ready) lent.release();
}

void State::keep_slab(IdleSlab slab) {
  const std::lock_guard lock(mutex_);
  slabs_.push_back(std::move(slab));
}

IdleSlab State::take_slab(MemoryKind kind, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  auto best = slabs_.end();
  for (auto each = slabs_.begin(); each != slabs_.end(); ++each) {
    if (each->kind != kind || each->bytes < bytes || !all_passed(each->busy)) continue;
    if (best == slabs_.end() || each->bytes < best->bytes) best = each;
  }
  if (best == slabs_.end()) return {kind, nullptr, 0, {}};
  IdleSlab found = std::move(*best);
  slabs_.erase(best);
  return found;
}

std::size_t State::free_slabs() {
  std::vector<IdleSlab> all;
  {
    const std::lock_guard lock(mutex_);
    all.swap(slabs_);
  }
  const auto busy = std::partition(all.begin(), all.end(), [](auto& slab) { return all_passed(slab.busy); });
  for (auto each = busy; each != all.end(); ++each) keep_slab(std::move(*each));
  all.erase(busy, all.end());
  std::vector<std::uint64_t> known;
  for (const IdleSlab& slab : all)
    if (slab.exported && slab.exported->is_known()) known.push_back(slab.exported->id());
  if (!known.empty()) tell_freed(known);
  std::size_t bytes = 0;
  for (IdleSlab& slab : all) {
    driver_->free(slab.kind, slab.data);
    bytes += slab.bytes;
    const std::lock_guard lock(mutex_);
    (slab.kind == MemoryKind::kDevice ? held_.device_bytes : held_.pinned_bytes) -= slab.bytes;
  }
  return bytes;
}

Result<std::byte*> State::allocate_slab(MemoryKind kind, std::size_t bytes) {
  auto memory = driver_->allocate(kind, bytes);
  if (!memory) return memory;
  const std::lock_guard lock(mutex_);
  (kind == MemoryKind::kDevice ? held_.device_bytes : held_.pinned_bytes) += bytes;
  return memory;
}

void State::keep_counts(const KernelCounts& kernels) {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, count] : kernels) kernels_[name] += count;
}

GpuUsage State::usage() {
  std::vector<std::shared_ptr<StreamState>> streams;
  KernelCounts kernels;
  GpuUsage usage;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& each : streams_)
      if (auto stream = each.lock()) streams.push_back(std::move(stream));
    kernels = kernels_;
    usage = held_;
  }
  for (const auto& stream : streams)
    for (const auto& [name, count] : stream->kernels()) kernels[name] += count;
  for (const auto& [name, count] : kernels) usage.kernels.emplace_back(name, count);
  return usage;
}

void State::watch_freed(std::weak_ptr<const SlabsFreed> told) {
  const std::lock_guard lock(mutex_);
  std::erase_if(watch_freed_, [](const auto& each) { return each.expired(); });
  watch_freed_.push_back(std::move(told));
}

void State::tell_freed(const std::vector<std::uint64_t>& ids) {
  std::vector<std::weak_ptr<const SlabsFreed>> told;
  {
    const std::lock_guard lock(mutex_);
    told = watch_freed_;
  }
  for (const auto& each : told)
    if (const auto tell = each.lock()) (*tell)(ids);
}

std::optional<Error> State::failed() const {
  const std::lock_guard lock(mutex_);
  return failed_;
}

Result<void> State::check(void* stream) {
  if (auto known = failed()) return *std::move(known);
  Result<void> asked = driver_->check(stream);
  if (asked) return asked;
  const std::string kernels = under_way();
  const std::lock_guard lock(mutex_);
  if (!failed_)
    failed_ = with_context(asked.error(),
                           kernels.empty() ? "work on the GPU failed" : "failed on the GPU: " + kernels);
  return *failed_;
}

Result<void> State::check_any() {
  std::shared_ptr<StreamState> stream;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& each : streams_)
      if ((stream = each.lock())) break;
  }
  if (auto known = failed()) return *std::move(known);
  return stream ? check(stream->native()) : Result<void>();
}

// Kernels of different streams were under way together; the driver does not say which of them it was.
std::string State::under_way() {
  std::vector<std::shared_ptr<StreamState>> streams;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& each : streams_)
      if (auto stream = each.lock()) streams.push_back(std::move(stream));
  }
  std::string text;
  for (const auto& stream : streams) {
    const char* const kernel = stream->under_way();
    if (kernel) text += (text.empty() ? "kernel " : " or kernel ") + std::string(kernel);
  }
  return text;
}

StreamState::~StreamState() {
  if (!adopted_) gpu_->driver().drop_stream(native_);
  gpu_->keep_word(word_, given_);
  gpu_->keep_counts(counts_);
}

Result<std::uint64_t> StreamState::next_number(const char* kernel) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t number = given_ + 1;
  if (kernel) {
    ++counts_[kernel];
    while (!kernels_.empty() && (passed(kernels_.front().first) || kernels_.size() >= kKernelsRemembered))
      kernels_.pop_front();
    kernels_.emplace_back(number, kernel);
  }
  if (auto written = gpu_->driver().write(native_, word_, number); !written) return written.error();
  given_ = number;
  return number;
}

Result<Mark> StreamState::mark() {
  auto number = next_number(nullptr);
  if (number) return Mark{shared_from_this(), *number};
  if (auto known = check(); !known) return known.error();
  return number.error();
}

Result<void> StreamState::launched(const char* kernel, int native_error) {
  if (native_error != 0) {
    // What failed earlier is told to whoever launches next: that one's name would be the wrong one.
    if (auto earlier = check(); !earlier) return earlier;
    return with_context(gpu_->driver().error_of(native_error), std::string("launching kernel ") + kernel);
  }
  if (next_number(kernel)) return {};
  return check();
}

const char* StreamState::under_way() {
  const std::lock_guard lock(mutex_);
  for (const auto& [number, kernel] : kernels_)
    if (!passed(number)) return kernel;
  return nullptr;
}

}  // namespace troupe::gpu
