#include "device/staging.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <new>
#include <string>
#include <utility>

namespace troupe::rpc {

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
/// Mappings of peers that are kept locked.
constexpr std::size_t kMostGuests = 256;

/// As long as the next tensor may be, too.
std::size_t rounded(std::size_t bytes) {
  if (bytes <= kMiB) return std::bit_ceil(std::max(bytes, SharedPool::kSmallest));
  return (bytes + kMiB - 1) / kMiB * kMiB;
}

/// Memory that peers cannot map. Throws std::bad_alloc.
Buffer pages(std::size_t size) {
  void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return Buffer::adopt(static_cast<std::byte*>(memory), size, Device{},
                       [memory, size] { ::munmap(memory, size); });
}

}  // namespace

Staging::~Staging() {
  // A device may still write there.
  for (auto& block : blocks_)
    if (block->lost) (void)block.release();
}

/// Nobody else refers to it, nor may a peer still read it.
bool Staging::is_idle(const Block& block) {
  return !block.lost && block.memory.unique() && !SharedPool::is_leased(block.memory) && block.last.done();
}

Staging::Block* Staging::idle(std::size_t bytes) {
  Block* best = nullptr;
  for (const auto& each : blocks_) {
    const std::size_t size = each->memory.size();
    // One that is much too long is somebody else's.
    if (size < bytes || size / 4 > std::max(bytes, SharedPool::kSmallest)) continue;
    if ((!best || size < best->memory.size()) && is_idle(*each)) best = each.get();
  }
  return best;
}

/// Those that nobody uses go, the oldest first, until there is room; and those that a peer was lent
/// when its session ended, which nobody may use again.
void Staging::make_room(std::size_t bytes) {
  for (auto each = blocks_.begin(); each != blocks_.end();) {
    const Buffer& memory = (*each)->memory;
    const bool abandoned =
        !(*each)->lost && memory.unique() && SharedPool::is_leased(memory) && (*each)->last.done();
    const bool is_surplus = bytes_ + bytes > most_ || blocks_.size() >= kMostBlocks;
    const bool surplus = is_surplus && is_idle(**each);
    if (!abandoned && !surplus) {
      ++each;
      continue;
    }
    bytes_ -= memory.size();
    by_memory_.erase(memory.block());
    each = blocks_.erase(each);
  }
}

/// One message may always have all that there is.
bool Staging::may_send(std::size_t size) const {
  const std::size_t most = most_ - most_ / 4;
  if (bytes_ + size <= most) return true;
  std::size_t busy = 0;
  for (const auto& each : blocks_)
    if (!is_idle(*each)) busy += each->memory.size();
  return busy == 0 || busy + size <= most;
}

Result<Buffer> Staging::take(std::size_t bytes, For what) {
  const std::size_t size = rounded(bytes);
  const auto refuse = [&](const std::string& why, Code code = Code::kResourceExhausted) {
    return Error{code, "no pinned memory for " + std::to_string(bytes) + " bytes of a device tensor: " + why};
  };
  if (size > most_) return refuse("no more than " + std::to_string(most_) + " are kept");
  if (what == For::kSending && !may_send(size)) return refuse("it is in use", Code::kUnavailable);
  Block* block = idle(bytes);
  if (!block) {
    make_room(size);
    if (bytes_ + size > most_ || blocks_.size() >= kMostBlocks)
      return refuse("it is in use", Code::kUnavailable);
    try {
      Buffer memory = pool_.allocate(size);
      // Ordinary memory shares pages with others', and pages are what is locked.
      if (!SharedPool::locate(memory)) memory = pages(size);
      // With what stands before it: the device writes there how far it has come.
      const std::size_t before = SharedPool::locate(memory).value_or(SharedPool::Location{}).offset;
      auto pinned = PinnedRange::pin(gpu_, memory.data() - before, memory.size() + before, false);
      if (!pinned) return refuse(pinned.error().message);
      blocks_.push_back(std::make_unique<Block>(Block{std::move(memory), *std::move(pinned), {}}));
    } catch (const std::bad_alloc&) {
      return refuse("the system has no more");
    }
    block = blocks_.back().get();
    by_memory_[block->memory.block()] = block;
    bytes_ += size;
  }
  return block->memory.slice(0, bytes);
}

Buffer Staging::part(std::size_t bytes) {
  auto taken = take(bytes, For::kReceiving);
  return taken ? *std::move(taken) : Buffer();
}

Staging::Block* Staging::find(const Buffer& buffer) {
  const auto found = by_memory_.find(buffer.block());
  return found == by_memory_.end() ? nullptr : found->second;
}

void Staging::lose(const Buffer& buffer) {
  if (Block* const block = find(buffer)) block->lost = true;
}

void Staging::in_use_until(const Buffer& buffer, const Event& event) {
  if (Block* const block = find(buffer)) block->last = event;
}

bool Staging::can_copy(const Buffer& buffer) {
  if (buffer.device().kind == MemoryKind::kPinned || find(buffer)) return true;
  const auto mapping = SharedMapping::of(buffer);
  if (!mapping) return false;
  const auto known = std::ranges::find(guests_, mapping, &Guest::mapping);
  if (known != guests_.end()) return known->pinned != nullptr;
  forget_peers();
  // The whole of it is locked, at the peer's word: no more than what comes of it is worth.
  const auto bytes = mapping->bytes();
  if (guests_.size() >= kMostGuests || bytes.size() > 8 * buffer.size() + kMiB ||
      guest_bytes_ + bytes.size() > most_)
    return false;
  auto pinned = PinnedRange::pin(gpu_, const_cast<std::byte*>(bytes.data()), bytes.size(), true);
  guest_bytes_ += bytes.size();
  guests_.push_back({mapping, pinned ? std::make_unique<PinnedRange>(*std::move(pinned)) : nullptr});
  return guests_.back().pinned != nullptr;
}

void Staging::forget_peers() {
  std::erase_if(guests_, [this](Guest& guest) {
    if (guest.mapping.use_count() > 1) return false;
    guest_bytes_ -= guest.mapping->bytes().size();
    guest.pinned.reset();
    return true;
  });
}

}  // namespace troupe::rpc
