#include <troupe/runtime/shared_pool.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include <atomic>
#include <cassert>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <troupe/runtime/fresh_memory.hpp>
#include <troupe/runtime/memfd.hpp>
#include <troupe/runtime/process.hpp>

namespace troupe {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::uint64_t kMagic = 0x316c6f6f70757274;  // "trupool1"
constexpr char kName[] = "troupe-pool";
constexpr std::string_view kLinkName = "/memfd:troupe-pool";

/// What stands at the beginning of each segment; the data begins a page later.
struct Header {
  std::uint64_t magic = kMagic;
  std::uint64_t cookie = 0;
  std::atomic<std::uint32_t> closed{0};
};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

/// A memfd of ours, mapped.
struct Segment {
  int fd = -1;
  std::byte* base = nullptr;
  std::size_t size = 0;  // with the header's page

  Header& header() const { return *reinterpret_cast<Header*>(base); }
};

/// After our own mapping nobody gets another one that can be written, as far as the kernel can forbid that.
std::optional<Segment> make_segment(std::size_t size) {
  std::uint64_t cookie = 0;
  if (::getrandom(&cookie, sizeof cookie, 0) != sizeof cookie) return std::nullopt;
  auto fd = make_memfd(kName, size);
  if (!fd) return std::nullopt;
  void* const base = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd->get(), 0);
  if (base == MAP_FAILED) return std::nullopt;
  if (!close_to_writers(fd->get()) && !close_seals(fd->get())) {
    ::munmap(base, size);
    return std::nullopt;
  }
  const Segment segment{fd->release(), static_cast<std::byte*>(base), size};
  new (base) Header;
  segment.header().cookie = cookie;
  return segment;
}

void close_segment(const Segment& segment) {
  segment.header().closed.store(1, std::memory_order_release);
  ::munmap(segment.base, segment.size);
  ::close(segment.fd);
}

}  // namespace

/// What the pool and its buffers share; outlives the pool while buffers are out.
class SharedPool::Shared : public std::enable_shared_from_this<SharedPool::Shared> {
 public:
  explicit Shared(Limits limits) : limits_(limits) {}
  ~Shared() {
    if (probe_ && !process_.left()) close_segment(*probe_);
  }

  Block* take(std::size_t size);
  void put_back(Block* block, bool again);
  void close();
  std::optional<Location> probe();
  Stats stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  const HomeProcess process_;  // in a child of it the memory is the parent's

  Block* reuse(std::size_t size);
  bool make_room(std::size_t size, std::vector<Block*>& surplus);
  Block* pop_free(std::size_t index);

  mutable std::mutex mutex_;
  std::vector<Block*> free_;  // the longest unused first
  std::optional<Segment> probe_;
  Stats stats_;
  Limits limits_;
  bool closed_ = false;
};

class SharedPool::Block final : public MemoryBlock {
 public:
  explicit Block(const Segment& segment)
      : MemoryBlock(segment.base + kPage, segment.size - kPage, Device{}, Sharing::kOwner),
        segment_(segment) {}
  ~Block() override { close_segment(segment_); }
  void lend(std::shared_ptr<Shared> home) {
    home_ = std::move(home);
    revive();
  }
  const Segment& segment() const { return segment_; }

  std::atomic<std::uint32_t> leases{0};
  std::atomic<bool> abandoned{false};

 private:
  void recycle() override {
    const std::shared_ptr<Shared> home = std::move(home_);
    home->put_back(this, !abandoned.load(std::memory_order_acquire));
  }
  Segment segment_;
  std::shared_ptr<Shared> home_;  // while in use
};

SharedPool::Block* SharedPool::Shared::pop_free(std::size_t index) {
  Block* block = free_[index];
  free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(index));
  --stats_.blocks_kept;
  stats_.bytes_kept -= block->capacity();
  return block;
}

/// The smallest free block that is long enough and not twice too long.
SharedPool::Block* SharedPool::Shared::reuse(std::size_t size) {
  std::size_t best = free_.size();
  for (std::size_t i = 0; i < free_.size(); ++i) {
    const std::size_t capacity = free_[i]->capacity();
    if (capacity >= size && capacity / 2 <= size &&
        (best == free_.size() || capacity < free_[best]->capacity()))
      best = i;
  }
  return best == free_.size() ? nullptr : pop_free(best);
}

bool SharedPool::Shared::make_room(std::size_t size, std::vector<Block*>& surplus) {
  if (closed_ || size > limits_.max_bytes || stats_.bytes_in_use > limits_.max_bytes - size ||
      stats_.blocks_in_use >= limits_.max_blocks)
    return false;
  while (stats_.bytes_in_use + stats_.bytes_kept + size > limits_.max_bytes ||
         stats_.blocks_in_use + stats_.blocks_kept >= limits_.max_blocks)
    surplus.push_back(pop_free(0));
  return true;
}

/// Null: there is no room, or the system gives none.
SharedPool::Block* SharedPool::Shared::take(std::size_t size) {
  if (process_.left()) return nullptr;
  const std::size_t capacity = (size + kSmallest - 1) / kSmallest * kSmallest;
  std::vector<Block*> surplus;
  Block* block = nullptr;
  {
    const std::lock_guard lock(mutex_);
    block = reuse(capacity);
    if (!block && make_room(capacity, surplus))
      if (const auto segment = make_segment(capacity + kPage)) block = new Block(*segment);
    if (block) {
      ++stats_.blocks_in_use;
      stats_.bytes_in_use += block->capacity();
    } else {
      ++stats_.fallbacks;
    }
  }
  for (Block* each : surplus) delete each;
  if (block) block->lend(shared_from_this());
  return block;
}

void SharedPool::Shared::put_back(Block* block, bool again) {
  if (process_.left()) return;
  {
    const std::lock_guard lock(mutex_);
    --stats_.blocks_in_use;
    stats_.bytes_in_use -= block->capacity();
    if (again && !closed_ && !kFreshMemory) {
      ++stats_.blocks_kept;
      stats_.bytes_kept += block->capacity();
      free_.push_back(block);
      return;
    }
  }
  delete block;
}

void SharedPool::Shared::close() {
  if (process_.left()) return;
  std::vector<Block*> all;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    all.swap(free_);
    stats_.blocks_kept = stats_.bytes_kept = 0;
  }
  for (Block* each : all) delete each;
}

std::optional<SharedPool::Location> SharedPool::Shared::probe() {
  if (limits_.max_bytes == 0 || process_.left()) return std::nullopt;
  const std::lock_guard lock(mutex_);
  if (!probe_) probe_ = make_segment(kPage);
  if (!probe_) return std::nullopt;
  return Location{static_cast<std::uint32_t>(probe_->fd), probe_->header().cookie, 0};
}

SharedPool::SharedPool(Limits limits) : shared_(std::make_shared<Shared>(limits)) {}
SharedPool::~SharedPool() {
  shared_->close();
}

Buffer SharedPool::allocate(std::size_t size) {
  if (size > (std::size_t{1} << 62)) throw std::bad_alloc();
  if (size >= kSmallest)
    if (Block* block = shared_->take(size)) return {block, size};
  return Buffer::allocate(size);
}

bool SharedPool::others_cannot_write() {
  const auto fd = make_memfd(kName, kPage);
  return fd && close_to_writers(fd->get());
}

SharedPool::Stats SharedPool::stats() const {
  return shared_->stats();
}
std::optional<SharedPool::Location> SharedPool::probe() {
  return shared_->probe();
}

std::optional<SharedPool::Location> SharedPool::locate(const Buffer& buffer) {
  if (!buffer.block() || buffer.block()->sharing() != Sharing::kOwner) return std::nullopt;
  const Segment& segment = static_cast<const Block*>(buffer.block())->segment();
  return Location{static_cast<std::uint32_t>(segment.fd), segment.header().cookie,
                  static_cast<std::uint64_t>(buffer.data() - segment.base)};
}

std::atomic<std::uint64_t>* SharedPool::progress(const Buffer& buffer) {
  static_assert(sizeof(Header) <= kProgress);
  if (!buffer.block() || buffer.block()->sharing() != Sharing::kOwner) return nullptr;
  std::byte* const base = static_cast<const Block*>(buffer.block())->segment().base;
  return reinterpret_cast<std::atomic<std::uint64_t>*>(base + kProgress);
}

bool SharedPool::is_leased(const Buffer& buffer) {
  if (!buffer.block() || buffer.block()->sharing() != Sharing::kOwner) return false;
  const auto* block = static_cast<const Block*>(buffer.block());
  return block->leases.load(std::memory_order_acquire) > 0 ||
         block->abandoned.load(std::memory_order_acquire);
}

// ---- Leases -------------------------------------------------------------------------------------

SharedLease::SharedLease(Buffer buffer) : buffer_(std::move(buffer)) {
  assert(SharedPool::locate(buffer_));
  static_cast<SharedPool::Block*>(buffer_.block())->leases.fetch_add(1, std::memory_order_relaxed);
}

SharedLease::~SharedLease() {
  if (auto* block = static_cast<SharedPool::Block*>(buffer_.block()))
    block->leases.fetch_sub(1, std::memory_order_release);
}

void SharedLease::abandon() {
  static_cast<SharedPool::Block*>(buffer_.block())->abandoned.store(true, std::memory_order_release);
}

namespace {

class LeasedBlock final : public MemoryBlock {
 public:
  explicit LeasedBlock(Buffer buffer)
      : MemoryBlock(buffer.data(), buffer.size(), buffer.device()), lease_(std::move(buffer)) {}

 private:
  void recycle() override { delete this; }
  SharedLease lease_;
};

}  // namespace

Buffer SharedPool::leased(Buffer buffer) {
  if (!buffer.block() || buffer.block()->sharing() != Sharing::kOwner) return buffer;
  const std::size_t size = buffer.size();
  return {new LeasedBlock(std::move(buffer)), size};
}

// ---- The reader's side --------------------------------------------------------------------------

namespace {

/// Bytes of a mapping, which it keeps.
class GuestBlock final : public MemoryBlock {
 public:
  GuestBlock(std::shared_ptr<const SharedMapping> mapping, const std::byte* data, std::size_t size,
             std::function<void()> done)
      : MemoryBlock(const_cast<std::byte*>(data), size, Device{}, Sharing::kGuest),
        mapping_(std::move(mapping)),
        done_(std::move(done)) {}
  const std::shared_ptr<const SharedMapping>& mapping() const { return mapping_; }

 private:
  void recycle() override {
    if (done_) done_();
    delete this;
  }
  std::shared_ptr<const SharedMapping> mapping_;
  std::function<void()> done_;
};

Error cannot_open(const std::string& why) {
  return {Code::kUnavailable, "a peer's shared memory cannot be opened: " + why};
}

Result<std::shared_ptr<const SharedMapping>> map(int fd, std::uint64_t cookie) {
  const auto sealed = sealed_size(fd);
  if (!sealed) return sealed.error();
  const std::size_t size = *sealed;
  if (size < kPage) return cannot_open("its size is wrong");
  void* const base = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) return cannot_open("mapping it failed");
  auto mapping = std::make_shared<const SharedMapping>(static_cast<const std::byte*>(base), size);
  const auto* header = static_cast<const Header*>(base);
  if (header->magic != kMagic || header->cookie != cookie) return cannot_open("its cookie is another one");
  return mapping;
}

}  // namespace

Result<std::shared_ptr<const SharedMapping>> SharedMapping::open(pid_t owner,
                                                                 const SharedPool::Location& location) {
  const auto fd = open_descriptor_of(owner, static_cast<int>(location.fd), kLinkName, O_RDONLY);
  if (!fd) return Error{Code::kUnavailable, fd.error().message};
  return map(fd->get(), location.cookie);
}

SharedMapping::~SharedMapping() {
  ::munmap(const_cast<std::byte*>(data_), size_);
}

const std::atomic<std::uint64_t>* SharedMapping::number(std::uint32_t offset) const {
  if (offset < sizeof(Header) || offset % sizeof(std::uint64_t) != 0 ||
      offset > kPage - sizeof(std::uint64_t))
    return nullptr;
  return reinterpret_cast<const std::atomic<std::uint64_t>*>(data_ + offset);
}

std::shared_ptr<const SharedMapping> SharedMapping::of(const Buffer& buffer) {
  if (!buffer.read_only()) return nullptr;
  return static_cast<const GuestBlock*>(buffer.block())->mapping();
}

bool SharedMapping::is_closed() const {
  return reinterpret_cast<const Header*>(data_)->closed.load(std::memory_order_acquire) != 0;
}

Result<Buffer> SharedMapping::view(std::shared_ptr<const SharedMapping> mapping, std::uint64_t offset,
                                   std::uint64_t size, std::function<void()> done) {
  if (offset < kPage || offset > mapping->size_ || size > mapping->size_ - offset)
    return Error{Code::kDataLoss, "a shared tensor lies outside of its segment"};
  const std::byte* const data = mapping->data_ + offset;
  return Buffer(new GuestBlock(std::move(mapping), data, size, std::move(done)), size);
}

}  // namespace troupe
