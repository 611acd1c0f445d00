#include "pool.hpp"

#include <algorithm>
#include <limits>
#include <utility>

namespace troupe {
namespace gpu {
namespace {

constexpr std::size_t kAlignment = 512;  // what device code and copy engines like best
// Free ranges looked at before another slab is taken.
constexpr int kLooks = 32;

/// Adds `more` to `marks`, one for each stream: of one stream the later says it all.
void add_marks(std::vector<Mark>& marks, std::vector<Mark> more) {
  for (Mark& mark : more) {
    const auto same = std::find_if(marks.begin(), marks.end(),
                                   [&](const Mark& each) { return each.stream == mark.stream; });
    if (same == marks.end())
      marks.push_back(std::move(mark));
    else
      same->number = std::max(same->number, mark.number);
  }
}

void forget_passed(std::vector<Mark>& marks) {
  std::erase_if(marks, [](const Mark& mark) { return mark.passed(); });
}

/// Whether the same streams are in both, in any order; each is in one once.
bool same_streams(const std::vector<Mark>& a, const std::vector<Mark>& b) {
  return a.size() == b.size() && std::all_of(a.begin(), a.end(), [&b](const Mark& mark) {
           return std::any_of(b.begin(), b.end(),
                              [&](const Mark& each) { return each.stream == mark.stream; });
         });
}

bool only_of(const std::vector<Mark>& marks, const Stream& stream) {
  return std::all_of(marks.begin(), marks.end(),
                     [&](const Mark& mark) { return mark.stream == stream.state(); });
}

}  // namespace

class PoolState::PoolBlock final : public Block {
 public:
  PoolBlock(Ranges::iterator range, Device device, const Stream& stream, std::shared_ptr<PoolState> home)
      : Block(range->first, range->second.bytes, device, stream), range_(range), home_(std::move(home)) {}
  Result<GpuLocation> locate() override { return home_->locate(*range_->second.slab, range_->first); }

 private:
  void recycle() override {
    home_->put_back(range_, marks());
    delete this;
  }
  const Ranges::iterator range_;
  const std::shared_ptr<PoolState> home_;
};

PoolState::~PoolState() {
  for (const auto& slab : slabs_) {
    std::vector<Point> busy;
    for (const auto& [at, range] : slab->ranges)
      for (const Mark& mark : range.busy) busy.push_back(mark.point());
    gpu_->keep_slab({options_.kind, slab->data, slab->bytes, std::move(busy), slab->exported});
  }
}

// A slab stays where it is, and its beginning and length the same, as long as a buffer of it does.
Result<GpuLocation> PoolState::locate(const Slab& slab, const std::byte* at) {
  if (options_.kind != MemoryKind::kDevice)
    return Error{Code::kFailedPrecondition, "the memory is the host's, not a GPU's"};
  auto handle = slab.exported->handle(gpu_->driver(), slab.data);
  if (!handle) return handle.error();
  return GpuLocation{{slab.exported->id(), slab.bytes, *handle}, static_cast<std::uint64_t>(at - slab.data)};
}

// The smallest that nobody is at work in but `stream` itself.
PoolState::FreeRanges::iterator PoolState::find_passed(std::size_t bytes, const Stream& stream) {
  int looks = 0;
  for (auto each = free_.lower_bound(bytes); each != free_.end() && looks < kLooks; ++each, ++looks) {
    std::vector<Mark>& busy = each->second->second.busy;
    forget_passed(busy);
    if (only_of(busy, stream)) return each;
  }
  return free_.end();
}

// The smallest, after whoever is at work in it.
Result<PoolState::FreeRanges::iterator> PoolState::find_waiting(std::size_t bytes, const Stream& stream) {
  const auto found = free_.lower_bound(bytes);
  if (found == free_.end()) return found;
  std::vector<Mark>& busy = found->second->second.busy;
  for (const Mark& mark : busy) {
    if (mark.stream == stream.state()) continue;
    State& gpu = mark.stream->gpu();
    auto handle = gpu.event();
    if (!handle) return handle.error();
    if (auto recorded = gpu.driver().record((*handle)->native(), mark.stream->native()); !recorded)
      return recorded.error();
    if (auto waits = gpu_->driver().wait(stream.native(), (*handle)->native()); !waits) return waits.error();
  }
  busy.clear();
  ++stats_.waits;
  return found;
}

Result<PoolState::FreeRanges::iterator> PoolState::add_slab(std::size_t bytes) {
  const std::size_t limit = options_.limit_bytes;
  std::size_t wanted = std::max(bytes, options_.slab_bytes);
  if (limit != 0 && wanted > limit - std::min(limit, stats_.bytes_reserved)) wanted = bytes;
  if (limit != 0 && wanted > limit - std::min(limit, stats_.bytes_reserved)) {
    return Error{Code::kResourceExhausted, "the pool's limit of " + std::to_string(limit) +
                                               " bytes is reached: " + std::to_string(bytes) +
                                               " more are asked for, " + std::to_string(stats_.bytes_in_use) +
                                               " are in use"};
  }
  IdleSlab slab = gpu_->take_slab(options_.kind, wanted);
  if (slab.data && limit != 0 && slab.bytes > limit - std::min(limit, stats_.bytes_reserved)) {
    gpu_->keep_slab(std::exchange(slab, {options_.kind, nullptr, 0, {}}));
  }
  if (!slab.data) {
    auto memory = gpu_->allocate_slab(options_.kind, wanted);
    if (!memory && wanted > bytes) memory = gpu_->allocate_slab(options_.kind, wanted = bytes);
    if (!memory) return memory.error();
    slab = {options_.kind, *memory, wanted, {}};
  }
  if (!slab.exported) slab.exported = std::make_shared<SlabExport>();
  slabs_.push_back(std::make_unique<Slab>(Slab{slab.data, slab.bytes, {}, std::move(slab.exported)}));
  stats_.bytes_reserved += slab.bytes;
  Slab& added = *slabs_.back();
  const auto range = added.ranges.emplace(added.data, Range{&added, added.bytes}).first;
  make_free(range);
  return range->second.place;
}

void PoolState::make_free(Ranges::iterator range) {
  range->second.free = true;
  range->second.place = free_.emplace(range->second.bytes, range);
}

PoolState::Ranges::iterator PoolState::use(FreeRanges::iterator found, std::size_t bytes) {
  const auto range = found->second;
  free_.erase(found);
  range->second.free = false;
  if (range->second.bytes > bytes) {
    Range rest{range->second.slab, range->second.bytes - bytes};
    rest.busy = range->second.busy;
    range->second.bytes = bytes;
    make_free(range->second.slab->ranges.emplace(range->first + bytes, std::move(rest)).first);
  }
  range->second.busy.clear();
  stats_.bytes_in_use += bytes;
  stats_.peak_bytes = std::max(stats_.peak_bytes, stats_.bytes_in_use);
  ++stats_.allocations;
  return range;
}

Result<MemoryBlock*> PoolState::take(std::size_t size, const Stream& stream) {
  gpu_->collect();
  if (auto known = gpu_->failed()) return *std::move(known);
  const std::size_t bytes = (std::max<std::size_t>(size, 1) + kAlignment - 1) / kAlignment * kAlignment;
  const std::lock_guard lock(mutex_);
  auto found = find_passed(bytes, stream);
  if (found == free_.end()) {
    merge_all();
    found = find_passed(bytes, stream);
  }
  if (found == free_.end()) {
    auto added = add_slab(bytes);
    if (!added) {
      auto waiting = find_waiting(bytes, stream);
      if (!waiting) return waiting.error();
      if (*waiting == free_.end()) return added.error();
      added = *waiting;
    }
    found = *added;
  }
  const Device device{options_.kind, gpu_->driver().device().ordinal};
  return new PoolBlock(use(found, bytes), device, stream, shared_from_this());
}

// What is free of two neighbours becomes one range if the same streams are at work in both, or nobody: else a
// whole slab would wait for whoever had its last piece. `second` begins where `first` ends.
bool PoolState::merge_if_alike(Ranges::iterator first, Ranges::iterator second) {
  if (!first->second.free || !second->second.free) return false;
  forget_passed(first->second.busy);
  forget_passed(second->second.busy);
  if (!same_streams(first->second.busy, second->second.busy)) return false;
  free_.erase(first->second.place);
  free_.erase(second->second.place);
  first->second.bytes += second->second.bytes;
  add_marks(first->second.busy, std::move(second->second.busy));
  second->second.slab->ranges.erase(second);
  make_free(first);
  return true;
}

// Streams have gone on since their ranges were put back.
void PoolState::merge_all() {
  for (const auto& slab : slabs_) {
    for (auto each = slab->ranges.begin(); each != slab->ranges.end();) {
      const auto next = std::next(each);
      if (next == slab->ranges.end() || !merge_if_alike(each, next)) each = next;
    }
  }
}

void PoolState::put_back(Ranges::iterator range, Result<std::vector<Mark>> busy) {
  const std::lock_guard lock(mutex_);
  stats_.bytes_in_use -= range->second.bytes;
  if (!busy) {
    stats_.bytes_lost += range->second.bytes;  // nobody knows who still writes there
    return;
  }
  range->second.busy = *std::move(busy);
  Ranges& all = range->second.slab->ranges;
  make_free(range);
  if (const auto next = std::next(range); next != all.end()) merge_if_alike(range, next);
  if (range != all.begin()) merge_if_alike(std::prev(range), range);
}

}  // namespace gpu

GpuPool::GpuPool(const Gpu& gpu, GpuPoolOptions options)
    : state_(std::make_shared<gpu::PoolState>(gpu.state(), options)) {}

Result<Buffer> GpuPool::allocate(std::size_t size, const Stream& stream) {
  if (size > std::size_t{1} << 62)
    return Error{Code::kResourceExhausted, std::to_string(size) + " bytes are more than any device has"};
  auto block = state_->take(size, stream);
  if (!block) return block.error();
  return Buffer(*block, size);
}

Result<Tensor> GpuPool::empty(DType dtype, const Shape& shape, const Stream& stream) {
  std::size_t bytes = size_of(dtype);
  for (const std::int64_t extent : shape.extents()) {
    if (__builtin_mul_overflow(bytes, static_cast<std::size_t>(extent), &bytes) || bytes >> 63 != 0)
      return Error{Code::kInvalidArgument, "a tensor of " + shape.to_string() + " is too large to be"};
  }
  auto buffer = allocate(bytes, stream);
  if (!buffer) return buffer.error();
  return Tensor(dtype, shape, *std::move(buffer));
}

GpuPool::Stats GpuPool::stats() const {
  return state_->stats();
}

}  // namespace troupe
